"""What every entry point shares: its command line, its out folder, its exit status."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jointsampler.config.schema import Config, load_config
from jointsampler.errors import UserError


def out_folder(given: str, name: str = "--out") -> Path:
    """The absolute, writable folder that option ``name`` gives, created if need be.

    Raises UserError: relative inside a submitted job (whose working directory is
    a copy that Ray throws away), not a folder, not writable.
    """
    path = Path(given).expanduser()
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{name} {given!r} is relative, and a submitted job runs in a copy of the repository that "
            "Ray deletes: give an absolute path."
        )
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{name} {path} is not a writable folder: {error.strerror}.") from None
    return path


@dataclass(frozen=True)
class Arguments:
    config: Config
    out: Path
    flags: dict[str, bool]


def arguments(
    doc: str, argv: Sequence[str] | None = None, flags: Mapping[str, str] | None = None
) -> Arguments:
    """A workflow's command line; ``flags`` are its own switches with their help."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", help="a YAML file, for example workflows/configs/quickstart.yaml"
    )
    parser.add_argument("--out", required=True, help="the folder where everything is written")
    for flag, text in (flags or {}).items():
        parser.add_argument(flag, action="store_true", dest=flag, help=text)
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    args = parser.parse_intermixed_args(argv)
    switches = {flag: getattr(args, flag) for flag in flags or {}}
    return Arguments(load_config(args.config, args.overrides), out_folder(args.out), switches)


def parse(doc: str, argv: Sequence[str] | None = None) -> tuple[Config, Path]:
    """(config, out folder) of a command line without switches."""
    args = arguments(doc, argv)
    return args.config, args.out


def run(main: Callable[[], None]) -> None:
    """Run ``main``; a UserError becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
