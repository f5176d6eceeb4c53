"""The plots of the report and of ``compare`` as inline SVG: one figure, one question."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.results import KLPath, MethodResult, Results, SweepTable, frontier, points
from ..evaluation.stats import Interval
from ..evaluation.worth import speed

COLOURS = {
    "sequential": "#475569",
    "marginal": "#c2410c",
    "refresh": "#1d4ed8",
    "joint": "#0f766e",
}
LINES = {"recorded": "-", "own": "--", "sampled": ":"}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jointsampler",  # the same numbers give the same bytes
    "figure.constrained_layout.use": True,
}
COST_LABEL = "tokens per full pass, updates at their measured cost"


def as_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def responsive(svg: str) -> str:
    """The same picture without a fixed size: the page's column sets it."""
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    return svg


def figures(results: Results) -> dict[str, str]:
    """SVG text of every plot that the results allow; "summary" holds all but the sweep's."""
    methods = results.methods
    drawn: dict[str, Callable[[Axes, Results], None]] = {}
    if any(f.captured for r in methods for f in r.kl.values()):
        drawn["captured"] = captured_figure
    if any(r.nll for r in methods):
        drawn["nll"] = nll_figure
    if any(r.mauve for r in methods):
        drawn["mauve"] = mauve_figure
    if any(r.kl for r in methods):
        drawn["cost"] = cost_figure
    made = {}
    with plt.rc_context(STYLE):
        for name, draw in drawn.items():
            figure, axes = plt.subplots(figsize=(4.6, 3.4))
            draw(axes, results)
            made[name] = as_svg(figure)
        if drawn:
            size = (4.2 * len(drawn), 3.2)
            figure, all_axes = plt.subplots(1, len(drawn), figsize=size, squeeze=False)
            for axes, draw in zip(all_axes[0], drawn.values(), strict=True):
                draw(axes, results)
            made["summary"] = as_svg(figure)
    if results.sweep is not None:
        made |= sweep_figures(results.sweep)
    return made


def captured_figure(axes: Axes, results: Results) -> None:
    """Captured dependency over k, on the recorded path and in the method's own order."""
    every = [r for r in results.methods if any(f.captured for f in r.kl.values())]
    ks = sorted({r.k for r in every})
    for method in dict.fromkeys(r.method for r in every):
        for path, line in LINES.items():
            own = [r for r in every if r.method == method and path in r.kl]
            drawn = [(r.k, r.kl[path].captured) for r in own]
            label = f"{method}, {'own order' if path == 'own' else path}"
            _errorbars(axes, ks, drawn, method, line, label)
    _k_axis(axes, ks)
    axes.set_ylim(top=1.02)
    axes.set_title("Captured dependency (1 is the true joint)")
    axes.legend(frameon=False, fontsize=8)


def nll_figure(axes: Axes, results: Results) -> None:
    _over_k(axes, results, "nll")
    axes.set_title("NLL under the judge, nats per token")
    axes.legend(frameon=False, fontsize=8)


def mauve_figure(axes: Axes, results: Results) -> None:
    _over_k(axes, results, "mauve")
    ceiling = results.ceiling
    if ceiling is not None:
        if ceiling.low is not None:
            axes.axhspan(ceiling.low, ceiling.high, color="#94a3b8", alpha=0.25, lw=0)
        axes.axhline(ceiling.value, color="#475569", lw=1, ls="--", label="ceiling")
    axes.set_ylim(0, 1.05)
    axes.set_title("MAUVE against sequential samples")
    axes.legend(frameon=False, fontsize=8)


def cost_figure(axes: Axes, results: Results) -> None:
    """Nats per token against tokens per unit of cost, in the methods' own order."""
    _fidelity_against_cost(axes, results.methods, tasks=False, path="own")
    axes.set_title("KL to the true joint, nats per token")
    axes.legend(frameon=False, fontsize=8)


def frontier_svg(methods: Sequence[MethodResult], path: KLPath = "own") -> str:
    """KL against cost of every compared setting with the frontier: text, and tasks if any."""
    titles = {False: "Unconditional text", True: "Prompted tasks"}
    kinds = [tasks for tasks in titles if points(methods, tasks, path)]
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(
            1, len(kinds), figsize=(5.6 * len(kinds), 4.6), squeeze=False, sharey=True
        )
        for axes, tasks in zip(all_axes[0], kinds, strict=True):
            _fidelity_against_cost(axes, methods, tasks, path)
            best = frontier(points(methods, tasks, path))
            axes.plot(
                *zip(*best, strict=True), color="#94a3b8", lw=4, alpha=0.4, zorder=0,
                label="Pareto frontier",
            )  # fmt: skip
            axes.set_title(titles[tasks])
        all_axes[0][0].set_ylabel("KL to the true joint, nats per token")
        all_axes[0][0].legend(frameon=False, fontsize=7, ncols=2)
        return as_svg(figure)


def _fidelity_against_cost(
    axes: Axes, methods: Sequence[MethodResult], tasks: bool, path: KLPath
) -> None:
    names = list(dict.fromkeys(r.label for r in methods))
    cycle = plt.get_cmap("tab20").colors
    for at, name in enumerate(names):
        mine = [r for r in methods if r.label == name]
        own = sorted(points(mine, tasks, path))
        if own:
            updates = any(r.update_passes for r in mine)
            colour = COLOURS.get(name, cycle[at % len(cycle)])
            style = "o-" if updates else "x--"
            axes.plot(*zip(*own, strict=True), style, lw=0.7, ms=4, color=colour, label=name)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(COST_LABEL)


def _over_k(axes: Axes, results: Results, field: str) -> None:
    """An interval over k of every method; the sequential samples are each line's k = 1."""
    measured = [r for r in results.methods if getattr(r, field) is not None and r.k]
    ks = sorted({r.k for r in measured})
    for method in dict.fromkeys(r.method for r in measured if r.method != "sequential"):
        mine = [r for r in measured if r.method in (method, "sequential")]
        drawn = sorted(((r.k, getattr(r, field)) for r in mine), key=lambda pair: pair[0])
        _errorbars(axes, ks, drawn, method, "-", method)
    _k_axis(axes, ks)


def _errorbars(
    axes: Axes,
    ks: Sequence[int],
    drawn: Sequence[tuple[int, Interval | None]],
    method: str,
    line: str,
    label: str,
) -> None:
    known = [(ks.index(k), interval) for k, interval in drawn if interval is not None]
    if not known:
        return
    places, intervals = zip(*known, strict=True)
    values = [x.value for x in intervals]
    below = [0.0 if x.low is None else max(0.0, x.value - x.low) for x in intervals]
    above = [0.0 if x.high is None else max(0.0, x.high - x.value) for x in intervals]
    axes.errorbar(
        places, values, [below, above], marker="o", ms=4, capsize=3, ls=line,
        color=COLOURS.get(method), label=label,
    )  # fmt: skip


def _k_axis(axes: Axes, ks: Sequence[int]) -> None:
    axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set_xlabel("k, tokens per full pass")


def sweep_figures(table: SweepTable) -> dict[str, str]:
    """Fidelity against cost of every trial; a heat map of the objective where two keys were swept."""
    made = {}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.8))
        for number, trial in enumerate(table.trials):
            curve = [(1.0, 0.0)]
            curve += [(speed(k, trial.ratio), nats) for k, nats in sorted(trial.nats.items())]
            label = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in trial.values.items())
            colour = COLOURS["joint"] if number == 0 else None
            axes.plot(
                *zip(*curve, strict=True), "o-", lw=2 if number == 0 else 0.8, ms=3,
                color=colour, label=label,
            )  # fmt: skip
        line = axes.axvline if table.objective == "nats_at_speed" else axes.axhline
        line(table.target, color="#94a3b8", lw=1, ls="--")
        axes.set_xlabel(COST_LABEL)
        axes.set_ylabel("KL to the true joint, nats per token")
        axes.legend(frameon=False, fontsize=7)
        made["sweep_frontier"] = as_svg(figure)
        keys = list(table.trials[0].values)
        if len(keys) == 2:
            made["sweep_heat"] = _heat_map(table, *keys)
    return made


def _heat_map(table: SweepTable, down: str, across: str) -> str:
    rows, columns = (
        sorted({t.values[key] for t in table.trials}, key=_sortable) for key in (down, across)
    )
    figure, axes = plt.subplots(figsize=(1.6 + 0.9 * len(columns), 1.2 + 0.6 * len(rows)))
    values = [[float("nan")] * len(columns) for _ in rows]
    for trial in table.trials:
        at = rows.index(trial.values[down]), columns.index(trial.values[across])
        values[at[0]][at[1]] = abs(trial.objective)
    # Darker is better: few nats, or many tokens per unit of cost.
    colours = "YlGn_r" if table.objective == "nats_at_speed" else "YlGn"
    finite = [[v if v != float("inf") else float("nan") for v in row] for row in values]
    axes.imshow(finite, cmap=colours, aspect="auto")
    label = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1}  # readable on any colour
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=8, bbox=label)
    axes.set_xticks(range(len(columns)), [str(v) for v in columns])
    axes.set_yticks(range(len(rows)), [str(v) for v in rows])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.set_title(table.objective.replace("_", " "))
    return as_svg(figure)


def _sortable(value: object) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))
