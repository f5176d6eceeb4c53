"""From a YAML file and ``section.field=value`` overrides to a validated ``Config``.

Presets are in ``workflows/configs/``. Loading starts nothing and imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ..errors import UserError, refuse_secrets, unknown_name
from .schema import Config

S = TypeVar("S", bound=BaseModel)


def known_keys(schema: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema."""
    keys = []
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), schema: type[S] = Config
) -> S:
    """The validated configuration of a YAML file with overrides applied.

    Raises UserError with the key and the reason: unreadable file, unknown key
    (with the nearest valid one), wrong type, value out of range.
    """
    tree: dict[str, Any] = {}
    where = "the defaults"
    if path is not None:
        where = str(path)
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise UserError(f"Cannot read config {path}: {error.strerror}.") from None
        except yaml.YAMLError as error:
            raise UserError(f"Config {path} is not valid YAML: {error}.") from None
        if not isinstance(tree, dict):
            raise UserError(
                f"Config {path} must be a mapping of sections, not {type(tree).__name__}."
            )
    for override in overrides:
        _apply_override(tree, override, schema)
    return _validated(tree, f"{where} or the overrides", schema)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """``config`` with dotted keys set to other values; UserError as in :func:`load_config`."""
    tree = config.model_dump()
    for key, value in values.items():
        _set(tree, key, value, Config)
    return _validated(tree, "a changed configuration", Config)


def _apply_override(tree: dict[str, Any], override: str, schema: type[BaseModel]) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise UserError(f"Override {override!r} has no '=': write it as section.field=value.")
    key = key.strip()
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        if not _is_text(key, schema):
            raise UserError(
                f"Override {override!r}: the value is not valid YAML ({error})."
            ) from None
        parsed = value
    # A revision such as 0123456 or a template such as {query} is text, whatever YAML makes of it.
    if parsed is not None and not isinstance(parsed, str) and _is_text(key, schema):
        parsed = value
    _set(tree, key, parsed, schema)


def _is_text(key: str, schema: type[BaseModel]) -> bool:
    """Whether the schema has text at the key."""
    kind: Any = schema
    for part in key.split("."):
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if not is_section or part not in kind.model_fields:
            return False
        kind = kind.model_fields[part].annotation
    return kind in (str, str | None)


def _set(tree: dict[str, Any], key: str, value: Any, schema: type[BaseModel]) -> None:
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise _unknown(key, schema)
    node[leaf] = value


def _validated(tree: dict[str, Any], where: str, schema: type[S]) -> S:
    refuse_secrets(tree)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise _unknown(key, schema) from None
        raise UserError(
            f"Config key {key} in {where}: {first['msg']} (got {first['input']!r})."
        ) from None


def _unknown(key: str, schema: type[BaseModel]) -> UserError:
    """The error for an unknown key; it lists the keys of its section, or all if there is no such section."""
    keys, section = known_keys(schema), key.partition(".")[0]
    return unknown_name("config key", key, [k for k in keys if k.startswith(f"{section}.")] or keys)
