"""Settings that cannot be are one error that names them, wherever they came from."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvalidInput
from orchestrator.settings import LocalSettings, SchedulerSettings, WorkerSettings, settings_from


def test_flags_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_ORCHESTRATOR_LOCAL_PORT", "1234")
    assert settings_from(LocalSettings, {}).port == 1234
    assert settings_from(LocalSettings, {"port": 5}).port == 5


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (WorkerSettings, "MEMORY_MIB", "3"),
        (SchedulerSettings, "PROGRESS_TIMEOUT_S", "soon"),
        (LocalSettings, "PORT", "70000"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, model: type, name: str, value: str) -> None:
    prefix = model.model_config["env_prefix"]  # type: ignore[attr-defined]
    monkeypatch.setenv(prefix + name, value)
    with pytest.raises(InvalidInput, match=rf"{name.lower()}: .*'{value}'.*\${prefix}{name}"):
        settings_from(model, {})
