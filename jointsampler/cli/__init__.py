"""The command line: ``jointsampler generate``, ``tune``, ``compare``, ``benchmark``, and others.

One file per command; a command is its arguments and what it prints. A UserError
is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ..errors import UserError
from . import benchmark, check_results, compare, generate, report, tune, verify_corpus

# Commands outside the library, with a ``main(argv)`` of their own. A module is imported when its
# command is given, because the library needs none of the workflow's packages.
OUTSIDE = {
    "run": ("workflows.cli", "Run a stage of the workflow, or all of them."),
    "prefetch": ("workflows.prefetch", "Fetch what a run needs from the network, ahead of it."),
    "lm-eval": ("jointsampler.harness.command", "Run lm-evaluation-harness on our methods."),
    "lm-eval-ray": ("workflows.harness", "The same with its documents spread over a Ray cluster."),
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv and argv[0] in OUTSIDE:
            module, _ = OUTSIDE[argv[0]]
            return importlib.import_module(module).main(argv[1:])
        return _run(argv)
    except UserError as error:
        print(f"jointsampler: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(argv: Sequence[str]) -> int:
    """A command of the library; its ``run`` returns an exit status, or None for 0."""
    parser = argparse.ArgumentParser(prog="jointsampler", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, summary) in OUTSIDE.items():
        commands.add_parser(name, help=summary)
    for module in (generate, tune, compare, report, check_results, benchmark, verify_corpus):
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
    return args.run(args) or 0
