"""What the two tables of ``jointsampler compare`` share: cells, bases, and the lines below a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..errors import UserError
from ..evaluation.measured import At
from ..evaluation.results import Results
from ..evaluation.stats import Interval


def line(values: Sequence[str], widths: Sequence[int]) -> str:
    cells = (value.ljust(width) for value, width in zip(values, widths, strict=True))
    return " ".join(cells).rstrip()


def shown(interval: Interval | None) -> str:
    return "-" if interval is None else str(interval)


def bases(
    given: Sequence[str] | None, default: Sequence[str], measured: Collection[str]
) -> list[str]:
    """The methods of ``--against``; by default those of ``default`` that are measured.

    Raises UserError for a given one that is not measured.
    """
    for name in given or ():
        if name not in measured:
            known = ", ".join(sorted(measured))
            raise UserError(f"--against {name!r} is none of the methods measured here: {known}.")
    return list(given) if given else [name for name in default if name in measured]


def statistics(results: Results, against: Collection[str]) -> Iterator[str]:
    """A line per curve, then one per difference of accuracy from a row of the methods ``against``."""
    for curve in results.curves:
        yield (
            f"{curve.label}: AUP {curve.aup.value:.1f} by tokens per pass, {curve.aup_cost.value:.1f} by cost "
            f"(n = {curve.aup.n}); accuracy at a multiple of sequential's speed: {_read(curve.accuracy_at)}; "
            f"speed at a share of its accuracy: {_read(curve.cost_at)}"
        )
    bases = {row.title for row in results.methods if row.method in against}
    for found in results.differences:
        if found.metric == "accuracy" and found.against in bases:
            yield f"accuracy of {found.row} minus that of {found.against}: {found}"


def _read(levels: Sequence[At]) -> str:
    return ", ".join(f"{at.value.value:.3f} at {at.level:g}" for at in levels) or "none reached"
