"""What a killed server leaves behind is found by the next one, and nothing else is."""

from __future__ import annotations

import dataclasses
import pathlib

from orchestrator.protocol.session_memory import Remembered, SessionMemory

ONE = Remembered("sid1" * 8, "eventRouter", "0x" + "1" * 40, "ATt1-a", "1-2-x", "NNt1-b")
TWO = dataclasses.replace(ONE, dcpsid="sid2" * 8, service="pheme")


def test_the_last_ack_of_every_session_survives(tmp_path: pathlib.Path) -> None:
    killed = SessionMemory(tmp_path / "sessions")
    killed.remember(ONE)
    killed.remember(TWO)
    killed.remember(dataclasses.replace(ONE, token="ATt9-z"))
    assert killed.recall(ONE.dcpsid) is None, "a living session is not recalled"
    after = SessionMemory(tmp_path / "sessions")
    assert after.recall(ONE.dcpsid) == dataclasses.replace(ONE, token="ATt9-z")
    assert after.recall(TWO.dcpsid) == TWO
    assert after.recall("another") is None


def test_what_is_forgotten_leaves_its_slot_to_others(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "sessions"
    memory = SessionMemory(path)
    memory.remember(ONE)
    size = path.stat().st_size
    for _ in range(50):
        memory.forget(ONE.dcpsid)
        memory.remember(TWO)
        memory.forget(TWO.dcpsid)
        memory.remember(ONE)
    assert path.stat().st_size == size
    after = SessionMemory(path)
    assert (after.recall(ONE.dcpsid), after.recall(TWO.dcpsid), len(after)) == (ONE, None, 1)
    after.forget(ONE.dcpsid)
    assert after.recall(ONE.dcpsid) is None
    assert len(SessionMemory(path)) == 0


def test_sessions_whose_client_has_given_up_are_dropped(tmp_path: pathlib.Path) -> None:
    SessionMemory(tmp_path / "sessions", clock=lambda: 1000.0).remember(ONE)
    assert SessionMemory(tmp_path / "sessions", patience=60, clock=lambda: 1059.0).recall(ONE.dcpsid) == ONE
    assert SessionMemory(tmp_path / "sessions", patience=60, clock=lambda: 1061.0).recall(ONE.dcpsid) is None


def test_a_damaged_file_costs_only_the_damaged_slots(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "sessions"
    memory = SessionMemory(path)
    memory.remember(ONE)
    memory.remember(TWO)
    content = bytearray(path.read_bytes())
    content[:8] = b"\xff\x00[[[[[["
    path.write_bytes(bytes(content[:-100]))
    after = SessionMemory(path)
    assert (after.recall(ONE.dcpsid), after.recall(TWO.dcpsid)) == (None, TWO)


def test_a_token_too_long_for_a_slot_is_not_kept(tmp_path: pathlib.Path) -> None:
    memory = SessionMemory(tmp_path / "sessions")
    memory.remember(ONE)
    memory.remember(dataclasses.replace(ONE, message_id="x" * 2000))
    assert SessionMemory(tmp_path / "sessions").recall(ONE.dcpsid) is None, "half a truth would break the session"


def test_without_a_path_nothing_is_kept() -> None:
    memory = SessionMemory()
    memory.remember(ONE)
    assert (memory.recall(ONE.dcpsid), len(memory)) == (None, 0)
