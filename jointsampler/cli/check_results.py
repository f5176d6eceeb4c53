"""Check a results.json against a baseline: a gate for CI, one line per metric.

    jointsampler check-results out/compare/results.json --against baseline.json
    jointsampler check-results new.json --against old.json --slack accuracy=0.01 --speed 0.1

A metric has regressed where the 95 % interval of its difference lies on the worse
side by more than --slack. Where both files hold the same prompts, seeds and
trajectories the difference is paired; the last lines say where not, and why. NLL,
distinct-n and self-BLEU are judged by their distance to the sequential samples. Exit status: 0 where nothing regressed, 1
where a metric regressed or is missing, 2 where the files cannot be compared.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ..errors import UserError
from ..evaluation.gate import Tolerance, check_results
from ..evaluation.results import read_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", help="results.json to judge")
    parser.add_argument("--against", required=True, help="results.json of the baseline")
    parser.add_argument(
        "--slack",
        nargs="*",
        default=[],
        metavar="METRIC=NUMBER",
        help="a loss to let pass beyond the noise, in the metric's own unit",
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="SHARE",
        help="also judge speeds, which may fall by this share (default: speeds are not judged)",
    )


def run(args: argparse.Namespace) -> int:
    """The exit status."""
    now, baseline = (read_results(Path(p).expanduser()) for p in (args.results, args.against))
    if args.speed is not None and not 0 <= args.speed < 1:
        raise UserError(f"--speed is a share of at least 0 and below 1, not {args.speed:g}.")
    verdicts = check_results(now, baseline, Tolerance(_slack(args.slack), args.speed))
    for verdict in verdicts:
        print(verdict)
    counts = Counter(verdict.outcome for verdict in verdicts)
    print(
        ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "nothing to judge"
    )
    unpaired: dict[str, dict[str, None]] = {}
    for verdict in verdicts:
        if verdict.change is not None and verdict.change.unpaired:
            unpaired.setdefault(verdict.change.unpaired, {})[verdict.metric] = None
    for why, metrics in unpaired.items():
        print(f"not paired, because {why}: {', '.join(metrics)}")
    return int(any(verdict.fails for verdict in verdicts))


def _slack(given: list[str]) -> dict[str, float]:
    found = {}
    for pair in given:
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(
                f"--slack {pair!r} is not METRIC=NUMBER, for example --slack accuracy=0.01."
            ) from None
    return found
