"""The one configuration schema: typed, validated, unknown keys refused.

A configuration is a YAML file (presets in ``workflows/configs/``) plus
``section.field=value`` overrides. Reading it starts nothing and imports no
torch; whether a name (a method, an order, a judge) exists is checked by the
plan of the stage that uses it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import UserError, unknown_name

PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(Section):
    seed: int = 0
    threads: int = Field(0, ge=0, description="torch threads of a single process; 0 leaves torch's own")


class PretrainConfig(Section):
    """workflows/pretrain.py: the embedded teacher."""

    vocab_size: PositiveInt = 2048
    hidden_size: PositiveInt = 192
    intermediate_size: PositiveInt = 512
    layers: PositiveInt = 10
    heads: PositiveInt = 6
    context: PositiveInt = 256
    lengths: list[PositiveInt] = [64, 33, 128, 64, 96, 33]
    batch_tokens: PositiveInt = 6144
    task_share: Share = 0.3
    steps: PositiveInt = 4000
    warmup_steps: PositiveInt = 100
    cooldown: Share = 0.3
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    bf16: bool = True
    compile: bool = True
    device: Literal["auto", "cpu"] = "auto"
    log_every: PositiveInt = 50
    save_every: PositiveInt = 250
    seed: int = 0


class Config(Section):
    run: RunConfig = RunConfig()
    pretrain: PretrainConfig = PretrainConfig()


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every dotted key of the schema."""
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise UserError(f"Override {override!r} has no '=': write it as section.field=value.")
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise unknown_name("config key", key, known_keys())
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"Override {override!r}: the value is not valid YAML ({error}).") from None


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The validated configuration of a YAML file with overrides applied.

    Raises UserError with the key and the reason: unreadable file, unknown key
    (with the nearest valid one), wrong type, value out of range.
    """
    tree: dict[str, Any] = {}
    where = "the overrides"
    if path is not None:
        where = str(path)
        try:
            tree = yaml.safe_load(Path(path).read_text()) or {}
        except OSError as error:
            raise UserError(f"Cannot read config {path}: {error.strerror}.") from None
        except yaml.YAMLError as error:
            raise UserError(f"Config {path} is not valid YAML: {error}.") from None
        if not isinstance(tree, dict):
            raise UserError(f"Config {path} must be a mapping of sections, not {type(tree).__name__}.")
    for override in overrides:
        _apply_override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name("config key", key, known_keys()) from None
        raise UserError(
            f"Config key {key} in {where} or the overrides: {first['msg']} (got {first['input']!r})."
        ) from None


def entry_point_parser(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="a YAML file, for example workflows/configs/quickstart.yaml")
    parser.add_argument("--out", required=True, help="where everything is written")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    return parser


def parse_entry_point(doc: str, argv: Sequence[str] | None = None) -> tuple[Config, Path]:
    """(config, absolute out folder) from a workflow's command line."""
    args = entry_point_parser(doc).parse_args(argv)
    return load_config(args.config, args.overrides), Path(args.out).resolve()


def run_entry_point(main: Callable[[], None]) -> None:
    """Run ``main``; a UserError becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
