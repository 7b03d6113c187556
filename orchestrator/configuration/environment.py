"""Settings from environment variables: `DCP_ORCHESTRATOR_<COMPONENT>_<FIELD>`.

A list is a JSON array, or words with spaces between them. An empty variable counts as not set.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from orchestrator.configuration.fields import SettingField, fields_of
from orchestrator.configuration.names import nearest
from orchestrator.errors import InvalidInput

PREFIX: Final = "DCP_ORCHESTRATOR_"
CONFIG_VARIABLE: Final = PREFIX + "CONFIG"
_CLOSE: Final = 0.85
# Kubernetes puts the address of each Service of a namespace into every container: DCP_ORCHESTRATOR_WORKER_PORT=tcp://…
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")


def component_config(component: str) -> SettingsConfigDict:
    """`model_config` of a component's settings: its variables begin with `DCP_ORCHESTRATOR_<COMPONENT>_`."""
    return SettingsConfigDict(env_prefix=f"{PREFIX}{component.upper()}_", frozen=True, extra="forbid")


def values(model: type[BaseModel], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the environment gives for the fields of `model`, by field name; not validated.

    Raises `InvalidInput` for a list that is broken JSON.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    for field in fields_of(model).values():
        text = environ.get(field.env, "")
        if text and not _is_service_link(field.env, text, model):
            found[field.name] = _words(field, text) if field.multiple else text
    return found


def _words(field: SettingField, text: str) -> Any:
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{field.name}: ${field.env} begins like a JSON list, but is none: {error}") from None


def unknown(
    components: Mapping[str, type[BaseModel]], environ: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str | None]]:
    """Variables that look like ours and are not, each with the name that was probably meant.

    Below the prefix of a component each unknown name is told; other names that begin with `DCP_ORCHESTRATOR_` may
    belong to somebody's scripts, and are told when they resemble one of ours.
    """
    environ = os.environ if environ is None else environ
    known = {field.env for model in components.values() for field in fields_of(model).values()} | {CONFIG_VARIABLE}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        owner = next((model for model in components.values() if name.startswith(_prefix(model))), None)
        if owner is None:
            meant = nearest(name, known, _CLOSE)
            if meant is not None:
                yield name, meant
        elif not _is_service_link(name, environ[name], owner):
            yield name, nearest(name, {field.env for field in fields_of(owner).values()})


def _prefix(model: type[BaseModel]) -> str:
    return str(model.model_config.get("env_prefix", ""))


def _is_service_link(name: str, text: str, model: type[BaseModel]) -> bool:
    rest = name.removeprefix(_prefix(model))
    if not _SERVICE_LINK.fullmatch(rest):
        return False
    return rest not in {field.name.upper() for field in fields_of(model).values()} or bool(_SERVICE_ADDRESS.match(text))


class _EnvironmentSource(PydanticBaseSettingsSource):
    """The same reading for whoever makes a settings object directly."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return values(self.settings_cls).get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return values(self.settings_cls)


class ComponentSettings(BaseSettings):
    """Base of the settings of each component: arguments over environment over defaults."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See the class."""
        return init_settings, _EnvironmentSource(settings_cls)
