"""`dcp-orchestrator worker run` says what is wrong, in one line, before it does anything."""

from __future__ import annotations

import json
import socket
import tomllib

import click.testing
import pytest

from orchestrator.cli.worker import command
from orchestrator.errors import InvalidInput
from orchestrator.exporting.metrics_server import AddressInUse
from orchestrator.settings import WorkerSettings
from orchestrator.worker.docker_runtime import RuntimeUnavailable


def run(*arguments, env=None):
    return click.testing.CliRunner().invoke(command, ["run", *arguments], env=env)


def test_every_setting_has_a_flag():
    parameters = {parameter.name for parameter in command.commands["run"].params}
    assert set(WorkerSettings.model_fields) <= parameters


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--allow-origin", "foo"], {}, ["allow-origin 'foo'", "http"]),
        ([], {"DCP_ORCHESTRATOR_WORKER_SANDBOXES": "0"}, ["sandboxes", "greater than or equal to 1"]),
    ],
)
def test_wrong_settings(arguments, env, words):
    error = run(*arguments, env=env).exception
    assert isinstance(error, InvalidInput) and all(word in error.message for word in words)


def test_without_docker_it_says_what_to_do(tmp_path):
    error = run("--docker-host", f"unix://{tmp_path}/none.sock", "--state", str(tmp_path / "s")).exception
    assert isinstance(error, RuntimeUnavailable) and "Install it" in error.message


def test_an_address_that_is_none(tmp_path):
    error = run("--payment-address", "nobody", "--state", str(tmp_path / "s")).exception
    assert isinstance(error, InvalidInput) and "nobody" in error.message


def test_showing_the_settings_starts_nothing(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[worker]\nmemory_mib = 300\ncompute_groups = ["key,hunter2"]\n')
    path.chmod(0o600)
    arguments = ["--config", str(path), "--cpus", "2", "--state", str(tmp_path / "s"), "--show-config"]
    shown = run(*arguments)
    assert (shown.exit_code, shown.exception) == (0, None)
    table = tomllib.loads(shown.output)["worker"]
    assert (table["memory_mib"], table["cpus"]) == (300, 2.0)
    as_json = json.loads(run(*arguments, "--output", "json").output)
    assert as_json["settings"]["memory_mib"]["where"] == f"{path}:2"
    assert "hunter2" not in shown.output and "hunter2" not in str(as_json)
    assert not (tmp_path / "s").exists()


def test_a_log_level_from_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[worker]\nlog_level = "loud"\n')
    error = run("--config", str(path)).exception
    assert isinstance(error, InvalidInput) and "'debug', 'info'" in error.message and f"{path}:2" in error.message


def test_a_port_that_another_process_has(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        error = run("--metrics-listen", listen, "--state", str(tmp_path / "s")).exception
    assert isinstance(error, AddressInUse) and listen in error.message
