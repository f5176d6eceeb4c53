"""The charts of the report and of ``compare``: one chart, one question.

Each takes (name of the run, its results) pairs. One run's series are its methods;
a comparison keeps the methods' colours and tells the runs apart by the filling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from ..evaluation.results import KLPath, MethodResult, Results, SweepTable, frontier, points
from ..evaluation.stats import Interval
from ..evaluation.worth import speed
from .record import Run, RunRecord
from .svg import HEIGHT, WIDTH, Axis, Chart, look, mark

FIXED = {"sequential": 0, "marginal": 1, "refresh": 2, "joint": 3}  # series that never change
COST = "tokens per full pass, updates at their measured cost"
NATS = "KL to the true joint, nats per token"
MANY, MOST = 20, 200  # points of a curve that have marks; that the pointer can find


@dataclass(frozen=True)
class Figure:
    """A chart with its title and its legend: (words, series, variant)."""

    title: str
    svg: str
    legend: list[tuple[str, int, int]]

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """(words, classes, path of the mark) of each entry of the legend."""
        return [(words, look(s, v), mark(s, 8, 8)) for words, s, v in self.legend]


def series_of(methods: Iterable[MethodResult]) -> dict[str, int]:
    """A series for every label, the same in all charts of a page."""
    found: dict[str, int] = {}
    for label in dict.fromkeys(r.label for r in methods):
        free = 4 + sum(name not in FIXED for name in found)
        found[label] = FIXED.get(label, free)
    return found


def all_series(runs: Sequence[Run]) -> dict[str, int]:
    return series_of(r for run in runs for r in run.results.methods)


def named(run: Run, words: str, several: bool) -> str:
    return f"{run.name}: {words}" if several else words


def frontier_figure(
    runs: Sequence[Run], tasks: bool = False, path: KLPath = "own"
) -> Figure | None:
    """Nats per token against tokens per unit of cost; None where that was not measured."""
    drawn = [r for run in runs for r in run.results.methods if points([r], tasks, path)]
    if not drawn:
        return None
    places = points(drawn, tasks, path)
    title = "Prompted tasks" if tasks else "Unconditional text"
    title = f"{title}: {NATS}, against {COST}"
    chart = Chart(
        title,
        Axis.over(COST, (x for x, _ in places)),
        Axis.over(NATS, (y for _, y in places), "symlog"),
    )
    chart.line(frontier(places), "frontier")
    series, legend = all_series(runs), []
    for variant, run in enumerate(runs):
        for label, number in series.items():
            own = [r for r in run.results.methods if r.label == label and r in drawn]
            if not own:
                continue
            legend.append((named(run, label, len(runs) > 1), number, variant))
            chart.line(sorted(points(own, tasks, path)), look(number, variant))
            for row in own:
                nats = (row.kl_on_tasks if tasks else row.kl)[path].nats_per_token
                (place,) = points([row], tasks, path)
                words = f"{place[0]:.2f} tokens per full pass, {interval_text(nats, 4)} nats"
                name = named(run, row.title, len(runs) > 1)
                chart.point(*place, number, name, words, bounds(nats), variant)
    return Figure(title, chart.svg(), legend)


def frontier_svg(methods: Sequence[MethodResult], path: KLPath = "own") -> str:
    """The frontier on text, and on tasks if there are any, as one picture with its own colours."""
    run = Run(Results.model_construct(methods=list(methods)), RunRecord(name=""))
    figures = [frontier_figure([run], tasks, path) for tasks in (False, True)]
    return side_by_side([figure for figure in figures if figure is not None])


def over_k_figure(
    runs: Sequence[Run],
    title: str,
    get: Callable[[MethodResult], Interval | None],
    level: Interval | None = None,
    close: bool = False,
) -> Figure | None:
    """An interval over k of every method that has a k; ``level`` is drawn across the chart."""
    rows = [r for run in runs for r in run.results.methods if r.k and get(r) is not None]
    ks = sorted({r.k for r in rows})
    if not ks:
        return None
    values = [v for r in rows for v in (get(r).value, get(r).low, get(r).high) if v is not None]
    values += [] if level is None else [level.value]
    axis = Axis.close(title, values) if close else Axis.over(title, values)
    chart = Chart(title, Axis.of_names("k, tokens per full pass", [str(k) for k in ks]), axis)
    if level is not None:
        chart.level(level.value, level.low, level.high)
    series, legend = all_series(runs), []
    marks = [(v, run, label) for v, run in enumerate(runs) for label in series]
    for place, (variant, run, label) in enumerate(marks):
        own = sorted(
            (r for r in run.results.methods if r in rows and r.label == label), key=lambda r: r.k
        )
        if not own:
            continue
        legend.append((named(run, label, len(runs) > 1), series[label], variant))
        aside = 0.24 * (place / max(len(marks) - 1, 1) - 0.5)  # intervals do not hide each other
        at = [(ks.index(r.k) + aside, get(r).value) for r in own]
        chart.line(at, look(series[label], variant))
        for row, spot in zip(own, at, strict=True):
            words = interval_text(get(row))
            name = named(run, row.title, len(runs) > 1)
            chart.point(*spot, series[label], name, words, bounds(get(row)), variant)
    return Figure(title, chart.svg(), legend)


def loss_figure(runs: Sequence[Run]) -> Figure | None:
    """The training loss over the steps."""
    curves = {
        named(run, "loss", len(runs) > 1): [
            (p.step, p.loss) for p in run.record.curve if p.loss is not None
        ]
        for run in runs
    }
    return _curves("Training loss, mean since the report before", curves, 3)


def learning_figure(runs: Sequence[Run]) -> Figure | None:
    """Captured dependency on the validation rows over the steps."""
    curves = {
        named(run, f"k = {k}", len(runs) > 1): [
            (p.step, p.captured[k]) for p in run.record.curve if k in p.captured
        ]
        for run in runs
        for k in sorted({k for p in run.record.curve for k in p.captured})
    }
    return _curves("Captured dependency on the validation rows", curves, 0)


def _curves(title: str, curves: dict[str, list[tuple[int, float]]], first: int) -> Figure | None:
    """``first``: the series of the first curve."""
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return None
    spots = [spot for curve in curves.values() for spot in curve]
    chart = Chart(
        title,
        Axis.over("training step", (x for x, _ in spots)),
        Axis.close(title, (y for _, y in spots)),
    )
    legend = []
    for place, (name, curve) in enumerate(curves.items()):
        series = first + place
        legend.append((name, series, 0))
        chart.line(curve, look(series))
        many = len(curve) > MANY
        for step, value in curve[:: 1 + len(curve) // MOST]:
            chart.point(step, value, series, f"{name}, step {step}", f"{value:.4f}", quiet=many)
    return Figure(title, chart.svg(), legend)


def sweep_figure(table: SweepTable) -> Figure:
    """Fidelity against cost of every trial, each with the measured cost of its own sampler."""
    curves = {
        trial_name(trial.values): [
            (1.0, 0.0, None),
            *((speed(k, trial.ratio), nats, k) for k, nats in sorted(trial.nats.items())),
        ]
        for trial in table.trials
    }
    spots = [spot for curve in curves.values() for spot in curve]
    title = f"Trials: {NATS}, against {COST}"
    chart = Chart(
        title, Axis.over(COST, (s[0] for s in spots)), Axis.over(NATS, (s[1] for s in spots))
    )
    legend = []
    for number, (name, curve) in enumerate(curves.items()):
        legend.append((name, number, 0))
        chart.line([spot[:2] for spot in curve], look(number))
        for cost, nats, k in curve:
            if k is not None:
                words = f"{cost:.2f} tokens per full pass, {nats:.4f} nats"
                chart.point(cost, nats, number, f"{name}, k = {k}", words)
    return Figure(title, chart.svg(), legend)


def side_by_side(figures: Sequence[Figure]) -> str:
    """Charts beside each other in one SVG file; the legend of the first one is that of all."""
    style = resources.files(__package__).joinpath("templates/chart.css").read_text("utf-8")
    gap, head, line = 20, 24, 20
    across = len(figures) * (WIDTH + gap) - gap
    charts = []
    for number, figure in enumerate(figures):
        at = number * (WIDTH + gap)
        title, _, _ = figure.title.partition(", against")
        place = f'<svg x="{at}" y="{head}" width="{WIDTH}" height="{HEIGHT}" '
        charts.append(f'<text x="{at + 6}" y="15" font-weight="bold">{escape(title)}</text>')
        charts.append(figure.svg.replace("<svg ", place, 1))
    columns = across // 150
    keys = []
    for number, (words, looks, path) in enumerate(figures[0].keys):
        x, y = 6 + 150 * (number % columns), head + HEIGHT + 6 + line * (number // columns)
        keys.append(
            f'<g transform="translate({x} {y})"><g class="{looks}"><path class="mark" d="{path}"/></g>'
            f'<text x="20" y="12">{escape(words)}</text></g>'
        )
    bottom = head + HEIGHT + 6 + line * -(-len(keys) // columns)
    keys.append(f'<text class="note" x="6" y="{bottom + 12}">grey line: Pareto frontier</text>')
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {bottom + 20}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="var(--paper)"/>'
        f"{''.join(charts)}{''.join(keys)}</svg>\n"
    )


def trial_name(values: dict[str, object]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())


def bounds(interval: Interval) -> tuple[float, float] | None:
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return None
    return interval.low, interval.high


def interval_text(interval: Interval, digits: int = 3, sign: str = "") -> str:
    """In plain words: "0.767 [0.749, 0.784]"; ``sign``: "+" to show that of a difference."""
    if not interval.n:  # exact by construction
        return f"{interval.value:g}"
    value = number_text(interval.value, digits, sign)
    if interval.low is None or interval.high is None:
        return value
    low, high = (number_text(x, digits, sign) for x in (interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def number_text(value: float, digits: int, sign: str = "") -> str:
    """Rounded, with no minus before a zero."""
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}"
