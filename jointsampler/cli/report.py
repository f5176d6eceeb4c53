"""Write a run's report as one page, or compare runs on one.

    jointsampler report out/quickstart
    jointsampler report out/a out/b --out out/a-b

A run is an --out folder of 'jointsampler run' or 'jointsampler compare', or a
results.json. With several runs, every setting that the first run shares with
another stands side by side, with the interval of the difference, and a difference
inside the noise is named so. The page is self-contained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..report.page import write_comparison, write_report
from ..report.record import read_run, results_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument(
        "--out",
        help="folder of index.html (default: beside the results of one run; out/comparison)",
    )


def run(args: argparse.Namespace) -> None:
    places = [results_file(Path(given).expanduser()) for given in args.runs]
    if len(set(places)) < len(places):
        raise UserError("One run was named twice: name each once.")
    runs = [read_run(place) for place in places]
    if args.out is not None:
        out = Path(args.out).expanduser()
    else:
        out = places[0].parent if len(runs) == 1 else Path("out/comparison")
    try:
        page = write_report(runs[0], out) if len(runs) == 1 else write_comparison(runs, out)
    except OSError as error:
        raise UserError(f"Cannot write the page to {out}: {error.strerror}.") from None
    print(f"wrote {page}")
