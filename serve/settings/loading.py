"""Loads the settings from one YAML file and the environment, which overrides it; checks them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.sources.utils import parse_env_vars

from serve.settings.config import ConfigError, Settings

ENVIRONMENT_PREFIX = "MURMUR__"
"""`MURMUR__LIMITS__MAX_UPLOAD_MB=100` sets `limits.max_upload_mb`. Lists, sections and mappings are
YAML, which includes JSON."""
_DELIMITER = "__"
_NONE = "null"


def load_settings(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Settings:
    """Read a YAML file, if one is given, override it from the environment, and check the result.

    Args:
        environment: by default that of this process.
        values: sections that replace those of the file.

    Raises:
        ConfigError: the file cannot be read, or a field is unknown, missing or out of bounds.
    """
    written = ({} if path is None else read_yaml(path)) | dict(values or {})
    variables = _Environment(os.environ if environment is None else environment)
    try:
        return Settings.model_validate(_merged(written, variables()))
    except ValidationError as error:
        raise ConfigError("\n".join(fault_lines(error))) from error


class _Fields(Settings, BaseSettings):
    """The settings in the form that `_Environment` needs."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter=_DELIMITER, env_parse_none_str=_NONE
    )


class _Environment(EnvSettingsSource):
    """Turns variables into nested values. What the library would silently ignore is an error here:
    an unknown section, and a field inside a value that has no fields."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(_Fields)
        ours = {k: v for k, v in environment.items() if k.startswith(ENVIRONMENT_PREFIX)}
        self.env_vars = parse_env_vars(ours, parse_none_str=_NONE)

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        for variable, value in self.env_vars.items():
            section, *fields = _path(variable)
            values.setdefault(section, value)
            if section in Settings.model_fields:
                self._check_fields(variable, fields, values[section])
        return values

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            variable = next(name for name, text in self.env_vars.items() if text == value)
            raise ConfigError(f"{variable.upper()}: is not YAML: {_fault(error)}") from error

    def _check_fields(self, variable: str, fields: list[str], section: Any) -> None:
        """Check that a variable's value is there: another one may have replaced its section."""
        for name in fields:
            if not isinstance(section, dict) or name not in section:
                raise ConfigError(f"{variable.upper()}: there is another value in its place")
            section = section[name]


def _path(variable: str) -> list[str]:
    return variable.lower().removeprefix(ENVIRONMENT_PREFIX.lower()).split(_DELIMITER)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`: mappings are merged, all other values replaced."""
    both = {
        name: _merged(under[name], value)
        for name, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(name), dict)
    }
    return {**under, **over, **both}


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a settings file.

    Raises:
        ConfigError: it cannot be read, or is no mapping in YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {_fault(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of settings")
    return values


def fault_lines(error: ValidationError) -> list[str]:
    """A line for each fault, without faults that only follow from others."""
    faults = [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]
    places = [fault["loc"] for fault in faults]
    return [
        f"{_name_of(fault['loc'])}: {_words_of(fault['type'], fault['msg'])}"
        for fault in faults
        if not any(_is_inside(place, fault["loc"]) for place in places)
    ]


def _is_inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _words_of(kind: str, message: str) -> str:
    words = {"extra_forbidden": "there is no such setting", "missing": "must be set"}
    return words.get(kind, message.removeprefix("Value error, "))


def _name_of(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "settings"


def _fault(error: yaml.YAMLError) -> str:
    """Place and kind of a YAML error, without the text itself, which may be an API key."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).splitlines()[0]
