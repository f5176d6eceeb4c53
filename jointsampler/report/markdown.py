"""results.json to a Markdown summary, for a pull request or a terminal.

The same figures as the page (``page.py``) without plots and samples. A column or a
section that no row fills is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..evaluation.measured import Axis, Bin
from ..evaluation.results import Fidelity, MethodResult, Results
from ..evaluation.stats import Interval

AXES: dict[Axis, str] = {
    "mask_ratio": "masked share",
    "step": "step in the round",
    "distance": "distance to a revealed token",
}


def markdown(results: Results) -> str:
    """The whole summary."""
    parts = [
        _head(results), _methods(results), _curves(results), _differences(results),
        _breakdown(results), _foot(results),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without the columns that hold nothing but "-"."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] != "-" for row in rows)]
    lines = [[head[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i].replace("|", "\\|") for i in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(interval: Interval | None) -> str:
    """A value with its bounds; "0" alone where it is exact by construction."""
    if interval is None:
        return "-"
    return str(interval) if interval.n else f"{interval.value:g}"


def _head(results: Results) -> str:
    teacher = results.teacher
    lines = ["# Results", "", f"Teacher {teacher.name} ({teacher.family}, {teacher.fingerprint})."]
    if results.sampler is not None:
        sampler = results.sampler
        lines.append(f"Sampler of width {sampler.width} on {sampler.depth} layers of the teacher.")
    for name, cost in results.costs.items():
        lines.append(f"One update ({name}) costs {cost.ratio:.3f} of a full pass here.")
    return "\n".join(lines)


def _methods(results: Results) -> str:
    columns: dict[str, Callable[[MethodResult], str]] = {
        "KL, nats per token": lambda r: _nats(r.kl, "recorded"),
        "own order": lambda r: _nats(r.kl, "own"),
        "own order, tasks": lambda r: _nats(r.kl_on_tasks, "own"),
        "own samples, tasks": lambda r: _nats(r.kl_on_tasks, "sampled"),
        "captured": lambda r: shown(r.captured),
        "NLL": lambda r: shown(r.nll),
        "MAUVE": lambda r: shown(r.mauve),
        "distinct-2": lambda r: shown(r.distinct.get(2)),
        "self-BLEU": lambda r: shown(r.self_bleu),
        "accuracy": lambda r: shown(r.accuracy),
        "cost": lambda r: shown(r.cost),
        "cost, batch 1": lambda r: shown(r.cost_alone),
        "tokens per pass": lambda r: f"{r.tokens_per_pass:.2f}",
        "per cost": lambda r: f"{r.tokens_per_cost:.2f}",
        "per cost, tasks": lambda r: _number(r.task_tokens_per_cost),
        "per second": lambda r: f"{r.tokens_per_second:.0f}",
    }
    rows = [[r.title, *(read(r) for read in columns.values())] for r in results.methods]
    return table(["method", *columns], rows)


def _nats(measured: dict[str, Fidelity], path: str) -> str:
    return shown(measured[path].nats_per_token) if path in measured else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _curves(results: Results) -> str:
    if not results.curves:
        return ""
    speeds = sorted({at.level for curve in results.curves for at in curve.accuracy_at})
    shares = sorted({at.level for curve in results.curves for at in curve.cost_at}, reverse=True)
    head = ["method", "AUP", "AUP by cost"]
    head += [f"accuracy at {speed:g} x sequential's speed" for speed in speeds]
    head += [f"speed at {share:g} of sequential's accuracy" for share in shares]
    rows = []
    for curve in results.curves:
        at = {("speed", a.level): a.value for a in curve.accuracy_at}
        at |= {("share", a.level): a.value for a in curve.cost_at}
        rows.append([
            curve.label, f"{curve.aup.value:.1f}", f"{curve.aup_cost.value:.1f}",
            *(shown(at.get(("speed", level))) for level in speeds),
            *(shown(at.get(("share", level))) for level in shares),
        ])  # fmt: skip
    note = "Speed: tokens per cost on the task prompts, relative to sequential's."
    return "\n\n".join(["## Accuracy against parallelism", note, table(head, rows)])


def _differences(results: Results) -> str:
    if not results.differences:
        return ""
    rows = [
        [d.metric.replace("_", " "), d.row, d.against, str(d)] for d in results.differences
    ]  # fmt: skip
    head = ["metric", "method", "minus", "difference"]
    return "## Pairs on the same prompts and seeds\n\n" + table(head, rows)


def _breakdown(results: Results) -> str:
    """Captured dependency by place where it was measured, else nats; recorded path, text."""
    parts = []
    for axis, title in AXES.items():
        rows, places = [], {}
        for result in results.methods:
            fidelity = result.kl.get("recorded")
            bins = [] if fidelity is None else fidelity.breakdown.get(axis, [])
            cells = {_place(axis, found): _in_bin(found) for found in bins}
            places |= {_place(axis, found): found.low for found in bins}
            rows.append((result.title, cells))
        ordered = sorted(places, key=places.get)
        kept = [[name, *(cells.get(p, "-") for p in ordered)] for name, cells in rows if cells]
        if kept:
            parts.append(table([title, *ordered], kept))
    if not parts:
        return ""
    note = "Nats per reveal, and captured dependency in percent, on the recorded path."
    return "\n\n".join(["## Where the KL arises", note, *parts])


def _place(axis: Axis, found: Bin) -> str:
    if axis == "mask_ratio":
        return f"{found.low:g} to {found.high:g}"
    if found.high is None:
        return f"{found.low:g} or more"
    return f"{found.low:g}" if found.low == found.high else f"{found.low:g} to {found.high:g}"


def _in_bin(found: Bin) -> str:
    captured = "" if found.captured is None else f" ({100 * found.captured.value:.0f} %)"
    return f"{found.nats.value:.4f}{captured}"


def _foot(results: Results) -> str:
    machine = results.machine
    lines = [
        "Brackets: 95 % intervals. Differences: paired bootstrap over the units. KL(teacher || method) "
        f"at temperature {results.kl_temperature:g}.",
        f"Judge: {results.judge}. Machine: {machine.get('processor')}, {machine.get('cores')} cores"
        + (f", {machine['gpu']}" if machine.get("gpu") else "") + ".",
    ]  # fmt: skip
    return "\n".join(lines)
