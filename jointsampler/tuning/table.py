"""The table of a tuning: the candidates on or near the frontier, fastest last, and the pick."""

from __future__ import annotations

from collections.abc import Sequence

from .picking import beaten, frontier
from .results import Candidate, Tuning

HEAD = ("", "candidate", "ms/token", "tokens/s", "x sequential", "nats per token", "trajectories")
LEGEND = "* Pareto frontier, > the pick; brackets: 95 %, bootstrap over trajectories"


def table(tuning: Tuning, picked: Candidate) -> str:
    """Text: a heading, the candidates that no other beats clearly, and what was left out."""
    measured = tuning.measured
    best = frontier(measured)
    shown = [each for each in measured if each in best or not beaten(each, measured)]
    shown.sort(key=lambda each: (each.speedup, -each.nats.value))
    marks = [(">" if each == picked else "*" if each in best else "") for each in shown]
    rows = [(mark, *_cells(each)) for mark, each in zip(marks, shown, strict=True)]
    left_out = len(tuning.candidates) - len(shown)
    said = f"{left_out} candidates are clearly beaten, slower than sequential, or were not measured"
    if not tuning.complete:
        said += f"; the limit of {tuning.limit:g} s was met before all had their turn: raise it"
    return "\n".join([heading(tuning), "", *_columns([HEAD, *rows]), "", LEGEND, said])


def heading(tuning: Tuning) -> str:
    key = tuning.key
    what = f"batch {key['batch']}, {key['length']} tokens"
    if tuning.predicted_for is not None:
        return (
            f"seconds PREDICTED for {key['shape']} on {tuning.predicted_for}: {what}; nats measured with "
            f"{key['teacher']}"
        )
    return (
        f"measured with {key['teacher']} on {key['device']}, {key['dtype']}: {what}; {tuning.walks} "
        f"walks in {tuning.seconds:.0f} s"
    )


def _cells(each: Candidate) -> tuple[str, ...]:
    low, high = each.nats.low, each.nats.high
    exact = each.k == 1
    return (
        str(each),
        f"{each.seconds_per_token * 1e3:.3g}",
        f"{1 / each.seconds_per_token:,.0f}",
        f"{each.speedup:.2f}",
        "0 (exact)" if exact else f"{each.nats.value:.4f} [{low:.4f}, {high:.4f}]",
        "-" if exact else str(each.nats.n),
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
