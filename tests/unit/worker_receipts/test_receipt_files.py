"""Receipts on disk: whole lines after any crash, and never more than the bounds."""

from __future__ import annotations

import pathlib
import threading

import pytest

from orchestrator.worker.receipt_files import ReceiptFiles, list_files

NOW = 1_800_000_000.0  # 2027-01-15
DAY = 86_400.0
MIB = 1 << 20


def names(folder: pathlib.Path) -> list[str]:
    return [path.name for path in list_files(folder)]


def test_lines_are_there_and_nobody_else_reads_them(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "state" / "receipts"
    files = ReceiptFiles(folder, max_bytes=MIB, keep_days=1)
    files.append(["a", "b"], NOW)
    files.append(["c"], NOW + 1)
    files.close()
    [path] = list_files(folder)
    assert path.name == "2027-01-15.0001.jsonl"
    assert path.read_text() == "a\nb\nc\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("torn", ["half a li", "x" * 200_000])
def test_a_torn_line_is_cut_at_the_next_start(tmp_path: pathlib.Path, torn: str) -> None:
    path = tmp_path / "2027-01-15.0001.jsonl"
    path.write_text("whole\n" + torn)
    files = ReceiptFiles(tmp_path, max_bytes=16 * MIB, keep_days=1)
    files.append(["next"], NOW)
    files.close()
    assert path.read_text() == "whole\nnext\n"


def test_a_file_that_is_nothing_but_torn(tmp_path: pathlib.Path) -> None:
    (tmp_path / "2027-01-15.0001.jsonl").write_text("x" * 70_000)
    files = ReceiptFiles(tmp_path, max_bytes=MIB, keep_days=1)
    files.append(["next"], NOW)
    files.close()
    assert [path.read_text() for path in list_files(tmp_path)] == ["next\n"]


def test_a_new_day_is_a_new_file_and_old_days_go(tmp_path: pathlib.Path) -> None:
    files = ReceiptFiles(tmp_path, max_bytes=16 * MIB, keep_days=2)
    for day in range(5):
        files.append([f"day {day}"], NOW + day * DAY)
    files.close()
    assert names(tmp_path) == ["2027-01-17.0001.jsonl", "2027-01-18.0001.jsonl", "2027-01-19.0001.jsonl"]
    assert files.removed == 2


def test_all_files_together_keep_the_bound(tmp_path: pathlib.Path) -> None:
    bound = MIB
    files = ReceiptFiles(tmp_path, max_bytes=bound, keep_days=10)
    line = "x" * 999
    for number in range(300):
        files.append([f"{number:03}" + line[3:]] * 10, NOW)
        assert sum(path.stat().st_size for path in list_files(tmp_path)) <= bound + 10_000
    files.close()
    kept = "".join(path.read_text() for path in list_files(tmp_path)).splitlines()
    assert kept[-1].startswith("299")  # the newest stay
    assert len(kept) > 500
    assert kept == sorted(kept)


def test_a_folder_that_cannot_be_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    files = ReceiptFiles(tmp_path / "file" / "receipts", max_bytes=MIB, keep_days=1)
    with pytest.raises(OSError, match="Not a directory"):
        files.append(["a"], NOW)
    files.close()


def test_other_files_are_left_alone(tmp_path: pathlib.Path) -> None:
    for name in ("notes.txt", "2001-01-01.jsonl", "2001-01-01.0001.jsonl.bak"):
        (tmp_path / name).write_text("mine")
    files = ReceiptFiles(tmp_path, max_bytes=MIB, keep_days=0)
    files.append(["a"], NOW)
    files.close()
    assert len(list(tmp_path.iterdir())) == 4


def test_two_threads(tmp_path: pathlib.Path) -> None:
    files = ReceiptFiles(tmp_path, max_bytes=16 * MIB, keep_days=1)
    threads = [
        threading.Thread(target=lambda mark=mark: [files.append([mark * 500], NOW) for _ in range(20)]) for mark in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files.close()
    [path] = list_files(tmp_path)
    assert sorted(path.read_text().splitlines()) == ["a" * 500] * 20 + ["b" * 500] * 20
