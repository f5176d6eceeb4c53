"""results.json to a Markdown summary, for a pull request or a terminal.

The same figures as the page (``page.py``) without plots and samples. A column or a
section that no row fills is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..evaluation.results import Fidelity, MethodResult, Results
from ..evaluation.stats import Interval
from . import where
from .accuracy import accuracy_table
from .tables import Table


def markdown(results: Results) -> str:
    """The whole summary."""
    parts = [
        _head(results), _methods(results), _curves(results), _differences(results),
        _breakdown(results), _foot(results),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without the columns that hold no figure."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] not in ("-", "–") for row in rows)]
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
    found = accuracy_table(results)
    if found is None:
        return ""
    return f"## {found.title}\n\n{_of_table(found, 'method')}"


def _of_table(found: Table, first: str) -> str:
    """A table of the page without settings; ``first`` is the head of its first column."""
    return table([first, *found.columns], [[label, *cells] for label, _, _, cells in found.rows])


def _differences(results: Results) -> str:
    if not results.differences:
        return ""
    rows = [
        [d.metric.replace("_", " "), d.row, d.against, str(d)] for d in results.differences
    ]  # fmt: skip
    head = ["metric", "method", "minus", "difference"]
    return "## Pairs on the same prompts and seeds\n\n" + table(head, rows)


def _breakdown(results: Results) -> str:
    """Nats and captured dependency by place; recorded path, text."""
    found = where.groups(results)
    if not found:
        return ""
    note = "Nats per reveal on the recorded path, and captured dependency."
    parts = [_of_table(each, each.title) for group in found for each in group.tables]
    return "\n\n".join(["## Where the KL arises", note, *parts])


def _foot(results: Results) -> str:
    machine = results.machine
    lines = [
        "Brackets: 95 % intervals. Differences: paired bootstrap over the units. KL(teacher || method) "
        f"at temperature {results.kl_temperature:g}.",
        f"Judge: {results.judge}. Machine: {machine.get('processor')}, {machine.get('cores')} cores"
        + (f", {machine['gpu']}" if machine.get("gpu") else "") + ".",
    ]  # fmt: skip
    return "\n".join(lines)
