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
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.utils import markupsafe

from ..evaluation.results import KLPath, SweepTable
from . import charts, differences, tables
from .record import Run, distinctly_named

STYLES = ("chart.css", "page.css")
SCRIPTS = ("charts.js", "steps.js", "samples.js")
PATHS: tuple[KLPath, ...] = ("own", "sampled")  # the first that was measured is drawn
HEAT_LEVELS = 8


def write_report(run: Run, folder: Path) -> Path:
    """Write ``index.html`` into ``folder``; returns the page's path."""
    r = run.results
    sections = [
        ("frontier", "Fidelity against cost"),
        ("by-k", "By k"),
        *([("steps", "Step through a sample")] if step_lanes([run]) else []),
        *([("samples", "Samples")] if r.examples else []),
        *([("sweep", "Sweep")] if r.sweep else []),
        *([("learning", "Learning curves")] if run.record.curve else []),
        ("provenance", "How it was made"),
    ]
    return _write(
        "report.html",
        folder,
        sections,
        run=run,
        r=r,
        leads=tables.leads(r),
        frontiers=[
            (
                title,
                charts.frontier_figure([run], tasks, path),
                tables.frontier_table(r.methods, tasks, path),
            )
            for title, tasks, path in measured_paths([run])
        ],
        plots=over_k_figures([run]),
        tables=tables.tables(r),
        lanes=step_lanes([run]),
        sample_rows=r.examples and list(zip(*r.examples.texts, strict=True)),
        heat=r.sweep and heat_map(r.sweep),
        sweep_figure=r.sweep and charts.sweep_figure(r.sweep),
        trial_name=charts.trial_name,
        curves=curve_figures([run]),
        longest=max(
            (max(s.seconds, s.forecast_seconds or 0.0) for s in run.record.stages.values()),
            default=1.0,
        ),
        origin=origin(run),
        config=yaml.safe_dump(r.config, sort_keys=False),
    )


def write_comparison(runs: Sequence[Run], folder: Path) -> Path:
    """Write ``index.html`` with two or more runs side by side; differences are to the first."""
    runs = distinctly_named(runs)
    compared = differences.comparisons(runs)
    every = [d for c in compared for _, _, row in c.rows for d in row]
    judged = [d for d in every if d.look not in ("unknown", "equal")]
    origins = [origin(run) for run in runs]
    lanes, curves = step_lanes(runs), curve_figures(runs)
    return _write(
        "comparison.html",
        folder,
        [
            ("frontier", "Fidelity against cost"),
            ("tables", "Setting by setting"),
            *([("steps", "Step through a sample")] if lanes else []),
            *([("learning", "Learning curves")] if curves else []),
            ("provenance", "How they were made"),
        ],
        runs=runs,
        warnings=warnings(runs),
        counts={"judged": len(judged), "outside": sum(d.look != "noise" for d in judged)},
        frontiers=[
            charts.frontier_figure(runs, tasks, path) for _, tasks, path in measured_paths(runs)
        ],
        comparisons=compared,
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


def origin(run: Run) -> list[tuple[str, str]]:
    """Where a run comes from: (what, in words)."""
    r, record = run.results, run.record
    machine = r.machine
    parts = [f"{machine.get('cores')} cores", f"{machine.get('memory_gib')} GiB"]
    parts += [str(machine[key]) for key in ("gpu", "processor") if machine.get(key)]
    commits = list(dict.fromkeys(s.commit for s in record.stages.values() if s.commit))
    seeds = [f"{key} = {value}" for key, value in _seeds(r.config)]
    return [
        ("Commit", ", ".join(commits) or "not known: the code did not run from a checkout"),
        ("Digest of the configuration", record.config_digest or "–"),
        ("Teacher", f"{r.teacher.name}, {r.teacher.fingerprint}"),
        ("Seeds", ", ".join(seeds) or "–"),
        ("Machine", ", ".join(parts)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in r.versions.items())),
        ("MLflow run", record.mlflow_run or "–"),
    ]


def _seeds(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _seeds(value, f"{prefix}{key}.")
        elif key == "seed" or key.endswith("_seeds"):
            found.append((prefix + key, value))
    return found


def warnings(runs: Sequence[Run]) -> list[str]:
    """What makes runs hard to compare, one sentence each."""
    checks = {
        "The runs have different teachers, so their distances are to different joint distributions.": [
            run.results.teacher.fingerprint for run in runs
        ],
        "The runs were judged by different models, so NLL and MAUVE cannot be compared.": [
            run.results.judge for run in runs
        ],
        "KL was measured at different temperatures.": [run.results.kl_temperature for run in runs],
        "The runs were measured on different machines: tokens/s and costs are each machine's own.": [
            {k: v for k, v in run.results.machine.items() if k in ("processor", "cores", "gpu")}
            for run in runs
        ],
    }
    return [said for said, values in checks.items() if any(v != values[0] for v in values)]


def _write(name: str, folder: Path, sections: Sequence[tuple[str, str]], **values: Any) -> Path:
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
    page = environment.get_template(name).render(
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
