"""Runs to one self-contained page: for screens, phones and paper, light and dark.

The page loads nothing. Its style sheet and its script stand in it, and its content
security policy allows these two by their digests and nothing else. Text from
outside (samples, names, settings) is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.utils import markupsafe

from ..evaluation.results import KLPath, Results, SweepTable
from . import charts, differences, tables, where
from .accuracy import accuracy_figure, accuracy_table
from .pairs import pair_tables
from .provenance import origin, warnings
from .record import Run, distinctly_named

STYLES = ("chart.css", "page.css")
SCRIPTS = ("charts.js", "steps.js", "samples.js")
PATHS: tuple[KLPath, ...] = ("own", "sampled")  # the first that was measured is drawn
HEAT_LEVELS = 8


@dataclass(frozen=True)
class Section:
    """A part of a page: its title in the navigation and above it, and its template."""

    anchor: str
    title: str
    template: str


def write_report(run: Run, folder: Path) -> Path:
    """Write ``index.html`` into ``folder``; returns the page's path."""
    r = run.results
    lanes, curves, groups = step_lanes([run]), curve_figures([run]), where.groups(r)
    pairs = pair_tables(r)
    sections = {
        Section("frontier", "Fidelity against cost", "frontier.html"): True,
        Section("by-k", "By k", "by_k.html"): True,
        Section("where", "Where the KL arises", "where.html"): groups,
        Section("accuracy", "Accuracy against speed", "accuracy.html"): r.curves,
        Section("pairs", "Differences in pairs", "pairs.html"): pairs,
        Section("steps", "Step through a sample", "steps.html"): lanes,
        Section("samples", "Samples side by side", "samples.html"): r.examples,
        Section("sweep", "The sweep", "sweep.html"): r.sweep,
        Section("learning", "Learning curves", "learning.html"): curves,
        Section("provenance", "How it was made", "provenance.html"): True,
    }
    return _write(
        "report",
        folder,
        [section for section, wanted in sections.items() if wanted],
        title=f"Joint sampling report: {run.name}",
        heading="Joint sampling report",
        run=run,
        r=r,
        frontiers=[
            (
                title,
                charts.frontier_figure([run], tasks, path),
                tables.frontier_table(r.methods, tasks, path),
            )
            for title, tasks, path in measured_paths([run])
        ],
        groups=groups,
        pairs=pairs,
        pair_counts=differences.counts(
            one for table in pairs for _, _, row in table.rows for one in row if one is not None
        ),
        lanes=lanes,
        curves=curves,
        **_of_results(r),
        **_of_run(run),
    )


def _of_results(r: Results) -> dict[str, Any]:
    """What the report's templates show of results.json."""
    return {
        "leads": tables.leads(r),
        "tables": tables.tables(r),
        "accuracy_table": accuracy_table(r),
        "sample_rows": r.examples and list(zip(*r.examples.texts, strict=True)),
        "heat": r.sweep and heat_map(r.sweep),
        "sweep_figure": r.sweep and charts.sweep_figure(r.sweep),
        "trial_name": charts.trial_name,
        "config": yaml.safe_dump(r.config, sort_keys=False),
    }


def _of_run(run: Run) -> dict[str, Any]:
    """What they show of the run, and the charts that a comparison has too."""
    times = [max(s.seconds, s.forecast_seconds or 0.0) for s in run.record.stages.values()]
    return {
        "plots": over_k_figures([run]),
        "accuracy_figure": accuracy_figure([run]),
        "longest": max(times, default=1.0),
        "origin": origin(run),
    }


def write_comparison(runs: Sequence[Run], folder: Path) -> Path:
    """Write ``index.html`` with two or more runs side by side; differences are to the first."""
    runs = distinctly_named(runs)
    aup = differences.compared_aups(runs)
    compared = [*differences.comparisons(runs), *([aup] if aup else [])]
    origins = [origin(run) for run in runs]
    lanes, curves, accuracy = step_lanes(runs), curve_figures(runs), accuracy_figure(runs)
    sections = {
        Section("frontier", "Fidelity against cost", "comparison_frontier.html"): True,
        Section("accuracy", "Accuracy against speed", "comparison_accuracy.html"): accuracy,
        Section("tables", "Setting by setting", "comparison_tables.html"): True,
        Section("steps", "Step through a sample", "steps.html"): lanes,
        Section("learning", "Learning curves", "learning.html"): curves,
        Section("provenance", "How they were made", "comparison_provenance.html"): True,
    }
    return _write(
        "comparison",
        folder,
        [section for section, wanted in sections.items() if wanted],
        title=f"Comparison: {', '.join(run.name for run in runs)}",
        heading="Comparison of runs",
        runs=runs,
        warnings=warnings(runs),
        counts=differences.counts(one for c in compared for _, _, row in c.rows for one in row),
        frontiers=[
            charts.frontier_figure(runs, tasks, path) for _, tasks, path in measured_paths(runs)
        ],
        accuracy_figure=accuracy,
        comparisons=compared,
        reasons=differences.reasons(compared),
        alone=differences.only_in_one(runs),
        lanes=lanes,
        curves=curves,
        origins=[
            (name, [dict(o).get(name, "–") for o in origins])
            for name in dict.fromkeys(name for o in origins for name, _ in o)
        ],
        differing=differences.settings_that_differ(runs),
    )


def measured_paths(runs: Sequence[Run]) -> list[tuple[str, bool, KLPath]]:
    """(title, whether on tasks, path) of every frontier that can be drawn."""
    found = []
    for title, tasks in (("Unconditional text", False), ("Prompted tasks", True)):
        rows = [r.kl_on_tasks if tasks else r.kl for run in runs for r in run.results.methods]
        path = next((path for path in PATHS if any(path in row for row in rows)), None)
        if path is not None:
            found.append((title, tasks, path))
    return found


def over_k_figures(runs: Sequence[Run]) -> list[charts.Figure | None]:
    draw = charts.over_k_figure
    return [
        draw(
            runs,
            "Captured dependency, recorded order (1 is the true joint)",
            lambda r: r.captured,
            close=True,
        ),
        draw(
            runs,
            "Captured dependency, own order (1 is the true joint)",
            lambda r: r.kl["own"].captured if "own" in r.kl else None,
            close=True,
        ),
        draw(runs, "NLL under the judge, nats per token", lambda r: r.nll, close=True),
        draw(
            runs,
            "MAUVE against sequential samples, with its ceiling",
            lambda r: r.mauve,
            level=runs[0].results.ceiling,
        ),
        draw(runs, "Accuracy on the tasks", lambda r: r.accuracy),
    ]


def curve_figures(runs: Sequence[Run]) -> list[charts.Figure]:
    made = (charts.loss_figure(runs), charts.learning_figure(runs))
    return [figure for figure in made if figure is not None]


def step_lanes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The step-through's data: of each method its name and the records of its samples.

    The same method of several runs stands side by side.
    """
    lanes = [
        (place, charts.named(run, column, len(runs) > 1), records)
        for run in runs
        if (examples := run.results.examples) is not None
        for place, (column, records) in enumerate(
            zip(examples.columns, examples.unmaskings, strict=False)
        )
    ]
    fewest = min((len(records) for _, _, records in lanes), default=0)
    return [
        {"name": name, "rows": [record.model_dump() for record in records[:fewest]]}
        for _, name, records in sorted(lanes, key=lambda lane: lane[0])
    ]


def heat_map(table: SweepTable) -> dict[str, Any]:
    """Captured dependency by trial, in the order of the swept values, and k."""
    ks = sorted({k for trial in table.trials for k in trial.captured})
    values = [v for trial in table.trials for v in trial.captured.values()]
    low, span = min(values), max(max(values) - min(values), 1e-9)

    def cell(value: float | None) -> tuple[str, int]:
        if value is None:
            return "–", 0
        return f"{value:.3f}", min(int((value - low) / span * HEAT_LEVELS), HEAT_LEVELS - 1)

    ordered = sorted(table.trials, key=lambda t: [_sortable(v) for v in t.values.values()])
    rows = [
        (
            charts.trial_name(trial.values),
            trial is table.trials[0],
            [cell(trial.captured.get(k)) for k in ks],
        )
        for trial in ordered
    ]
    return {"ks": ks, "rows": rows}


def _sortable(value: object) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))


def _write(kind: str, folder: Path, sections: Sequence[Section], **values: Any) -> Path:
    """``kind``: that of the page, with which its own templates begin."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"interval": _small_interval, "data": _data, "short_commit": _short}
    style, script = (
        "\n".join(environment.loader.get_source(environment, part)[0] for part in parts)
        for parts in (STYLES, SCRIPTS)
    )
    page = environment.get_template("layout.html").render(
        kind=kind,
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        hashes={"style": _digest(style), "script": _digest(script)},
        sections=sections,
        **values,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def _digest(text: str) -> str:
    """As a content security policy names a style sheet or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _small_interval(text: str) -> markupsafe.Markup:
    """ "value [low, high]" with the brackets in small type."""
    value, bracket, rest = text.partition(" [")
    if not bracket:
        return markupsafe.escape(text)
    return markupsafe.Markup("{} <small>[{}</small>").format(value, rest)


def _data(value: Any) -> markupsafe.Markup:
    """JSON that no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return markupsafe.Markup(text.replace("<", "\\u003c"))


def _short(commit: str) -> str:
    head, dash, rest = commit.partition("-")
    return head[:10] + dash + rest
