"""Accuracy against speed on the task prompts: one chart of all methods, one table of readings."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.results import Results
from .charts import COST, Figure, all_series, bounds, interval_text, named
from .record import Run
from .svg import Axis, Chart, look
from .tables import Table


def accuracy_figure(runs: Sequence[Run]) -> Figure | None:
    """Accuracy of every curve over tokens per unit of cost; None without curves."""
    drawn = [
        (variant, run, curve) for variant, run in enumerate(runs) for curve in run.results.curves
    ]
    spots = [point for _, _, curve in drawn for point in curve.points]
    if not spots:
        return None
    title = f"Accuracy on the task prompts, against {COST}"
    ends = [x for p in spots for x in (p.accuracy.value, p.accuracy.high) if x is not None]
    chart = Chart(
        title, Axis.over(COST, (p.tokens_per_cost for p in spots)), Axis.over(title, ends)
    )
    series, legend = all_series(runs), []
    for variant, run, curve in drawn:
        places = [(p.tokens_per_cost, p.accuracy.value) for p in curve.points]
        chart.line(places, look(series[curve.label], variant))
        for place, point in zip(places, curve.points, strict=True):
            label = point.title if point.title == "sequential" else curve.label
            entry = (named(run, label, len(runs) > 1), series[label], variant)
            if entry not in legend:
                legend.append(entry)
            elif label == "sequential":  # every curve has it
                continue
            name = named(run, point.title, len(runs) > 1)
            words = f"{interval_text(point.accuracy)} right at {place[0]:.2f} tokens per full pass"
            chart.point(*place, series[label], name, words, bounds(point.accuracy), variant)
    return Figure(title, chart.svg(), legend)


def accuracy_table(results: Results) -> Table | None:
    """AUP, accuracy at matched cost, cost at matched accuracy; None without curves."""
    if not results.curves:
        return None
    speeds = sorted({at.level for curve in results.curves for at in curve.accuracy_at})
    shares = sorted({at.level for curve in results.curves for at in curve.cost_at}, reverse=True)
    columns = ["AUP", "AUP by cost"]
    columns += [f"accuracy at {speed:g} times sequential's speed" for speed in speeds]
    columns += [f"times sequential's speed at {share:.0%} of its accuracy" for share in shares]
    rows = []
    for curve in results.curves:
        read = {at.level: at.value for at in curve.accuracy_at}
        cost = {at.level: at.value for at in curve.cost_at}
        cells = [interval_text(curve.aup, 1), interval_text(curve.aup_cost, 1)]
        cells += [interval_text(read[level]) if level in read else "–" for level in speeds]
        cells += [interval_text(cost[level], 2) if level in cost else "–" for level in shares]
        rows.append((curve.label, "", curve.label, cells))
    return Table("Accuracy against speed", columns, rows, settings=False)
