"""Where settings come from, who wins, and what is said about names and values that cannot be."""

from __future__ import annotations

import pathlib
import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from orchestrator.configuration import environment, file, loading, showing
from orchestrator.configuration.environment import ComponentSettings, component_config
from orchestrator.configuration.fields import HIDDEN, flag
from orchestrator.errors import InvalidInput, NotPermitted
from orchestrator.settings import COMPONENTS, WorkerSettings, load


class Example(ComponentSettings):
    model_config = component_config("example")

    size_mib: int = Field(5, ge=1, description="size, MiB", json_schema_extra=flag("--size"))
    names: tuple[str, ...] = Field((), description="a name")
    key: SecretStr | None = Field(None, description="the key")
    pairs: tuple[str, ...] = Field((), description="name and secret", json_schema_extra=flag(secret=True))
    url: str = Field("http://x/", description="where")
    folder: pathlib.Path | None = Field(None, description="a folder")
    gentle: bool = Field(True, description="whether to be gentle")
    ratio: float = Field(0.5, description="a part", json_schema_extra=flag(topic="More"))
    credit: int = Field(0, ge=0, description="what it has", json_schema_extra=flag(amount=True))


class Other(ComponentSettings):
    model_config = component_config("other")

    port: int = Field(1, description="TCP port")


EXAMPLES = {"example": Example, "other": Other}


@pytest.fixture(autouse=True)
def no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("DCP_ORCHESTRATOR_CONFIG", raising=False)
    monkeypatch.setattr(file, "_SYSTEM_FOLDER", tmp_path / "etc")


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Any:
    def write(text: str, mode: int = 0o600) -> pathlib.Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def loaded(config: pathlib.Path | None = None, **flags: Any) -> loading.Loaded[Example]:
    return loading.load(Example, flags, EXAMPLES, config)


def refused(config: pathlib.Path | None = None, **flags: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        loaded(config, **flags)
    return caught.value.message


# -- who wins ---------------------------------------------------------------------------------------------------------


def test_flags_then_environment_then_file_then_default(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('[example]\nsize_mib = 2\nurl = "http://file/"\nratio = 0.25\n')
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_SIZE_MIB", "3")
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_URL", "http://environment/")
    got = loaded(path, size_mib=4)
    assert (got.settings.size_mib, got.settings.url, got.settings.ratio, got.settings.gentle) == (
        4, "http://environment/", 0.25, True,
    )  # fmt: skip
    assert {name: (origin.kind, origin.where) for name, origin in got.origins.items() if origin.kind != "default"} == {
        "size_mib": ("flag", "--size"),
        "url": ("environment", "$DCP_ORCHESTRATOR_EXAMPLE_URL"),
        "ratio": ("file", f"{path}:4"),
    }
    assert set(got.origins) == set(Example.model_fields)


def test_a_model_made_directly_reads_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_NAMES", "a b")
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_SIZE_MIB", "7")
    assert (Example().names, Example(size_mib=8).size_mib) == (("a", "b"), 8)


@pytest.mark.parametrize(
    ("text", "names"),
    [("a", ("a",)), ("a b,c", ("a", "b,c")), ('["a b", "c"]', ("a b", "c")), ("[]", ()), ("", ("file",))],
)
def test_lists_in_the_environment(write: Any, monkeypatch: pytest.MonkeyPatch, text: str, names: Any) -> None:
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_NAMES", text)
    assert loaded(write('[example]\nnames = ["file"]\n')).settings.names == names


def test_amounts_and_folders_as_people_write_them(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    got = loaded(write('[example]\ncredit = "0.5 DCC"\nfolder = "~/data"\n')).settings
    assert (got.credit, got.folder) == (5 * 10**17, pathlib.Path("/home/somebody/data"))
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_CREDIT", "12")
    assert loaded().settings.credit == 12


# -- which file -------------------------------------------------------------------------------------------------------


def test_where_the_file_is_looked_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(folder: str) -> pathlib.Path:
        path = tmp_path / folder / "dcp-orchestrator" / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text("")
        return path

    assert file.find() is None
    system = put("etc")
    assert file.find() == system
    mine = put("nothing")
    assert file.find() == mine
    monkeypatch.setenv("DCP_ORCHESTRATOR_CONFIG", "/dev/null")
    assert file.find() == pathlib.Path("/dev/null")
    assert loaded().path == pathlib.Path("/dev/null")
    assert file.find(pathlib.Path("named")) == pathlib.Path("named")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[example\n", ["is not TOML", "line 1"]),
        ("[example]\n\nsize = 1\n", ["config.toml:3", "no setting size", "did you mean size_mib?"]),
        ("[example]\nsize-mib = 1\n", [":2", "did you mean size_mib?"]),
        ("[example]\nnaems = []\n", ["did you mean names?"]),
        ("[example]\nport = 1\n", ["it belongs below [other]"]),
        ("[example]\nzzz = 1\n", ["[example] has no setting zzz"]),
        ("[exampel]\n", ["config.toml:1", "[exampel]", "did you mean [example]?"]),
        ("[zzz]\n", ["there are [example], [other]"]),
        ("size_mib = 1\n", ["config.toml:1", "outside of a table", "below [example]"]),
        ("zzz = 1\n", ["the tables are"]),
        ("[other]\nprot = 1\n", [":2", "did you mean port?"]),
        ("example.size = 1\n", [":1", "did you mean size_mib?"]),
        ("[example]\nsize_mib = 0\n", ["size_mib", "it is 0", "config.toml:2", "--size", "greater than"]),
        ('[example]\nnames = "a"\n', ["names: a list is wanted"]),
        ('[example]\nnames = [""]\nsize = 2\nsiez = 3\n', [":3", ":4"]),
        ('[example]\ncredit = "1 DCX"\n', ["credit", "'1 DCX'"]),
    ],
)
def test_what_is_wrong_in_a_file(write: Any, text: str, words: list[str]) -> None:
    message = refused(write(text))
    assert all(word in message for word in words), message


def test_files_that_cannot_be_read(write: Any, tmp_path: pathlib.Path) -> None:
    assert "there is no settings file" in refused(tmp_path / "none.toml")
    with pytest.raises(NotPermitted, match="Is a directory"):
        loaded(tmp_path)
    path = write("")
    path.write_bytes(b"\xff")
    assert "not a settings file" in refused(path)
    path.write_bytes(b"#" * (2**20 + 1))
    assert "more than" in refused(path)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ('[example]\nkey = "k"\n', 0o644, r"secrets \(key\): chmod o-r"),
        ('[example]\npairs = ["a,b"]\n', 0o604, "chmod o-r"),
        ("[example]\n", 0o602, "chmod o-w"),
        ('[example]\nkey = "k"\n', 0o640, None),
        ("[example]\nsize_mib = 2\n", 0o644, None),
    ],
)
def test_secrets_that_others_may_read(write: Any, text: str, mode: int, words: str | None) -> None:
    path = write(text, mode)
    if words is None:
        loaded(path)
        return
    with pytest.raises(file.UnsafeSettingsFile, match=words):
        loaded(path)


# -- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DCP_ORCHESTRATOR_EXAMPLE_SIZE", ["is no setting", "mean $DCP_ORCHESTRATOR_EXAMPLE_SIZE_MIB?"]),
        ("DCP_ORCHESTRATOR_OTHER_PROT", ["did you mean $DCP_ORCHESTRATOR_OTHER_PORT?"]),
        ("DCP_ORCHESTRATOR_EXMPLE_SIZE_MIB", ["did you mean $DCP_ORCHESTRATOR_EXAMPLE_SIZE_MIB?"]),
    ],
)  # fmt: skip
def test_variables_that_there_are_not(monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]) -> None:
    monkeypatch.setenv(name, "1")
    message = refused()
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCP_ORCHESTRATOR_PASSPHRASE", "x"),  # ours, of keystores
        ("DCP_ORCHESTRATOR_VERSION", "1.2"),  # somebody's script
        ("DCP_ORCHESTRATOR_OTHER_PORT", "tcp://10.0.0.1:9001"),  # Kubernetes, for a Service of that name
        ("DCP_ORCHESTRATOR_OTHER_PORT_9001_TCP_ADDR", "10.0.0.1"),
        ("DCP_ORCHESTRATOR_OTHER_SERVICE_HOST", "10.0.0.1"),
        ("DCP_ORCHESTRATOR_OTHER_SERVICE_PORT_HTTP", "9001"),
    ],
)
def test_variables_that_are_not_meant(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert loading.load(Other, {}, EXAMPLES).settings.port == 1


def test_wrong_values_name_their_source_and_hide_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_GENTLE", "perhaps")
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_PAIRS", '{"a":')
    message = refused(key=5, url=["x://u:pass@h"])
    assert "gentle" in message and "'perhaps', from $DCP_ORCHESTRATOR_EXAMPLE_GENTLE" in message
    assert "key" in message and "5" not in message.replace(HIDDEN, "")
    assert "pass@" not in message
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_NAMES", "[a")
    assert "$DCP_ORCHESTRATOR_EXAMPLE_NAMES begins like a JSON list" in refused()


# -- reading again ----------------------------------------------------------------------------------------------------


def test_reading_again(write: Any) -> None:
    path = write("[example]\nsize_mib = 2\nratio = 0.1\n")
    first = loaded(path, ratio=0.9)
    path.write_text("[example]\nsize_mib = 3\nratio = 0.2\n")
    second = first.again()
    assert (first.settings.size_mib, second.settings.size_mib) == (2, 3)
    assert second.settings.ratio == first.settings.ratio == 0.9
    assert second.again().settings == second.settings
    path.write_text("[example]\nsize_mib = 0\n")
    with pytest.raises(InvalidInput, match="size_mib"):
        second.again()
    path.unlink()
    with pytest.raises(InvalidInput, match="there is no settings file"):
        second.again()


# -- showing ----------------------------------------------------------------------------------------------------------


def test_every_value_is_shown_with_its_source_and_no_secret(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_ORCHESTRATOR_EXAMPLE_PAIRS", "name,hunter2")
    path = write('[example]\nkey = "hunter2"\nurl = "http://me:hunter2@x/"\nnames = ["a", "b"]\n')
    got = loaded(path, size_mib=9)
    text = showing.as_toml(got)
    assert "hunter2" not in text and "hunter2" not in str(showing.as_json(got))
    for line in (
        "size_mib = 9  # --size",
        'names = ["a", "b"]  # ' + f"{path}:4",
        f"# key is secret  # {path}:2",
        "# pairs is secret  # $DCP_ORCHESTRATOR_EXAMPLE_PAIRS",
        f'# url = "http://me:{HIDDEN}@x/"  # {path}:3',
        "# folder is not given",
        "gentle = true  # default",
        "# More",
    ):
        assert line in text.splitlines()
    shown = showing.as_json(got)
    assert shown["settings"]["size_mib"] == {
        "value": 9, "origin": "flag", "where": "--size", "flag": "--size",
        "variable": "DCP_ORCHESTRATOR_EXAMPLE_SIZE_MIB",
    }  # fmt: skip
    assert shown["settings"]["key"]["value"] == HIDDEN and shown["settings"]["folder"]["value"] is None
    assert (shown["component"], shown["file"]) == ("example", str(path))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(names=st.lists(texts), url=texts, gentle=st.booleans(), ratio=st.floats(), size=st.integers(1, 2**40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_shown_is_a_file_with_the_same_settings(
    tmp_path: pathlib.Path, names: list[str], url: str, gentle: bool, ratio: float, size: int
) -> None:
    got = loaded(names=tuple(names), url=url, gentle=gentle, ratio=ratio, size_mib=size)
    text = showing.as_toml(got)
    assert set(tomllib.loads(text)) == {"example"}
    path = tmp_path / "again.toml"
    path.write_text(text, newline="")
    again = loaded(path)
    if f"{HIDDEN}@" not in text:
        assert again.settings.model_dump_json() == got.settings.model_dump_json()


# -- the real models --------------------------------------------------------------------------------------------------


def test_the_workers_own_table(write: Any) -> None:
    path = write('[worker]\nmemory_mib = 256\ncompute_groups = ["key,secret"]\n[scheduler]\nport = 9100\n')
    got = load(WorkerSettings, {}, path)
    assert (got.settings.memory_mib, got.component) == (256, "worker")
    assert "key,secret" not in showing.as_toml(got)
    with pytest.raises(InvalidInput, match="did you mean memory_mib"):
        load(WorkerSettings, {}, write("[worker]\nmemory = 256\n"))


def test_variables_of_one_component_never_belong_to_another() -> None:
    names = [name for model in COMPONENTS.values() for name in environment.fields_of(model)]
    variables = [field.env for model in COMPONENTS.values() for field in environment.fields_of(model).values()]
    assert len(set(variables)) == len(variables) == len(names)
