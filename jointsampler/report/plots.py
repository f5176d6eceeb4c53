"""The report's plots as inline SVG: one figure, one question."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..decoding.methods import METHODS
from ..evaluation.compare import Row, frontier, points
from ..evaluation.worth import speed
from .results import MethodResult, Results, SweepTable

COLOURS = {"marginal": "#c2410c", "joint": "#0f766e", "sequential": "#475569"}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jointsampler",  # the same numbers give the same bytes
    "figure.constrained_layout.use": True,
}


def as_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def responsive(svg: str) -> str:
    """Without fixed sizes, so that the page's column decides."""
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    return svg


def _series(results: Results, method: str, field: str) -> list[tuple[int, object]]:
    """(k, interval) of a method, opened by the sequential samples at k = 1."""
    rows: list[MethodResult] = [r for r in results.methods if r.method in (method, "sequential")]
    return sorted((r.k, getattr(r, field)) for r in rows if getattr(r, field) is not None)


def _draw(axes: Axes, results: Results, field: str) -> None:
    for method in sorted({r.method for r in results.methods} - {"sequential"}):
        points = _series(results, method, field)
        ks = [k for k, _ in points]
        values = [p.value for _, p in points]
        errors = [
            [p.value - p.low for _, p in points],
            [max(0.0, p.high - p.value) for _, p in points],
        ]
        axes.errorbar(
            range(len(ks)),
            values,
            errors,
            marker="o",
            capsize=3,
            color=COLOURS.get(method),
            label=method,
        )
        axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set_xlabel("k, tokens per teacher pass")


def mauve_figure(axes: Axes, results: Results) -> None:
    _draw(axes, results, "mauve")
    ceiling = results.ceiling.mauve
    axes.axhspan(ceiling.low, ceiling.high, color="#94a3b8", alpha=0.25, lw=0)
    axes.axhline(ceiling.value, color="#475569", lw=1, ls="--", label="k = 1 against k = 1")
    axes.set_ylim(0, 1.05)
    axes.set_title("MAUVE against the true joint")
    axes.legend(frameon=False)


def nll_figure(axes: Axes, results: Results) -> None:
    _draw(axes, results, "nll")
    axes.set_title("NLL under the judge, nats per token")
    axes.legend(frameon=False)


def dependency_figure(axes: Axes, results: Results) -> None:
    ks = sorted({r.k for r in results.methods if r.block_kl is not None})
    for offset, method in ((-0.2, "marginal"), (0.2, "joint")):
        rows = [r for r in results.methods if r.method == method and r.block_kl is not None]
        for r in rows:
            nats = r.block_kl.nats
            axes.bar(
                ks.index(r.k) + offset,
                nats.value,
                0.38,
                color=COLOURS[method],
                yerr=[[nats.value - nats.low], [nats.high - nats.value]],
                capsize=3,
                label=method if r.k == ks[0] else None,
            )
            if r.block_kl.captured is not None:
                axes.annotate(
                    f"{r.block_kl.captured.value:.0%}\ncaptured",
                    (ks.index(r.k) + offset, nats.high),
                    ha="center",
                    va="bottom",
                    fontsize=8,
                )
    axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set_xlabel("k, tokens per teacher pass")
    axes.set_title("Block KL to the true joint, nats")
    axes.legend(frameon=False)


def sweep_figures(table: SweepTable) -> dict[str, str]:
    """What every trial buys; and a heat map of the objective where two keys were swept."""
    made = {}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.8))
        for number, trial in enumerate(table.trials):
            points = [(1.0, 0.0)]
            points += [
                (speed(k, trial.pass_cost_ratio, trial.pass_cost_first), v)
                for k, v in sorted(trial.nats.items())
            ]
            label = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in trial.values.items())
            colour = COLOURS["joint"] if number == 0 else None
            axes.plot(
                *zip(*points, strict=True), "o-", lw=2 if number == 0 else 0.8, ms=3,
                color=colour, label=label,
            )  # fmt: skip
        line = axes.axvline if table.objective == "nats_at_speed" else axes.axhline
        line(table.target, color="#94a3b8", lw=1, ls="--")
        axes.set_xlabel("tokens per teacher-pass cost")
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
    # Darker is better: few nats, or much speed.
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


def frontier_svg(rows: Sequence[Row]) -> str:
    """Fidelity against cost of every compared setting, the frontier joined: text, and tasks if any."""
    kinds = [kind for kind in ("text", "tasks") if points(rows, kind)]
    titles = {"text": "Unconditional text", "tasks": "Prompted tasks"}
    names = list(dict.fromkeys(row.method for row in rows))
    cycle = plt.get_cmap("tab20").colors
    with plt.rc_context(STYLE):
        figure, all_axes = plt.subplots(
            1, len(kinds), figsize=(5.6 * len(kinds), 4.6), squeeze=False, sharey=True
        )
        for axes, kind in zip(all_axes[0], kinds, strict=True):
            for at, name in enumerate(names):
                own = sorted(points(rows, kind, name))
                if own:
                    style = "o-" if METHODS[name].uses_sampler else "x--"
                    colour = COLOURS.get(name, cycle[at % len(cycle)])
                    axes.plot(
                        *zip(*own, strict=True), style, lw=0.7, ms=4, color=colour, label=name
                    )
            best = frontier(points(rows, kind))
            axes.plot(
                *zip(*best, strict=True),
                color="#94a3b8",
                lw=4,
                alpha=0.4,
                zorder=0,
                label="Pareto frontier",
            )
            axes.set_yscale("symlog", linthresh=0.01)
            axes.set_title(titles[kind])
            axes.set_xlabel("tokens per teacher pass, sampler passes at their cost")
        all_axes[0][0].set_ylabel("KL to the true joint, nats per token")
        all_axes[0][0].legend(frameon=False, fontsize=7, ncols=2)
        return as_svg(figure)


def figures(results: Results) -> dict[str, str]:
    """SVG text of every plot that the results allow; "summary" is the README's picture."""
    with plt.rc_context(STYLE):
        wanted = {}
        if any(r.block_kl for r in results.methods):
            wanted["dependency"] = dependency_figure
        if results.ceiling is not None:
            wanted |= {"mauve": mauve_figure, "nll": nll_figure}
        made = {}
        for name, draw in wanted.items():
            figure, axes = plt.subplots(figsize=(4.6, 3.4))
            draw(axes, results)
            made[name] = as_svg(figure)
        if wanted:
            figure, all_axes = plt.subplots(
                1, len(wanted), figsize=(4.2 * len(wanted), 3.2), squeeze=False
            )
            for axes, draw in zip(all_axes[0], wanted.values(), strict=True):
                draw(axes, results)
            made["summary"] = as_svg(figure)
    if results.sweep is not None:
        made |= sweep_figures(results.sweep)
    return made
