"""The command line: ``jointsampler generate``, ``compare`` and ``verify-corpus``.

One file per command; a command is its arguments and what it prints. A UserError
is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import UserError
from . import compare, generate, verify_corpus


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jointsampler", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (generate, compare, verify_corpus):
        name = module.__name__.rsplit(".", 1)[1].replace("_", "-")
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"jointsampler: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
