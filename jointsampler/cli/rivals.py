"""The table of ``jointsampler compare --rivals``: published methods beside ours, paired.

Says what is printed; what is compared is in ``jointsampler/rivals``, how in
``evaluation/paired.py``.
"""

from __future__ import annotations

import argparse
import time

from ..environment import machine, packages
from ..errors import unknown_name
from ..evaluation.paired import Paired, PairedRun
from ..evaluation.results import MethodResult, Results, TeacherCard
from ..evaluation.stats import Interval
from ..rivals import LEARNED, Trained, contenders, train
from ..teachers.protocol import Teacher
from ..updates import Update

_HEADER = (
    "method",
    "setting",
    "accuracy",
    "/ sequential",
    "nats/token",
    "full",
    "updates",
    "cost",
    "cost, batch 1",
    "tok/cost",
)
_SHOWN = 2  # chunks between two tables of what is measured so far
_WIDTHS = (14, 38, 21, 21, 21, 6, 8, 21, 21, 8)


def compare_rivals(args: argparse.Namespace, teacher: Teacher, joint: Update | None) -> Results:
    """Train what the rivals need, measure, print."""
    conditions = Paired(args.prompts_per_task, args.max_new_tokens, seed=args.seed)
    length, names = args.max_new_tokens, args.methods
    known = {row.name for row in contenders(length, args.seed, joint=joint)} | set(LEARNED)
    for name in names or ():
        if name not in known:
            raise unknown_name("method", name, known)
    trained = None
    if not names or set(names) & set(LEARNED):
        begin = time.process_time()
        trained = train(teacher, length)
        print(_learned(trained, time.process_time() - begin), flush=True)
    rows = contenders(length, args.seed, trained, joint)
    rows = [row for row in rows if not names or row is rows[0] or row.name in names]
    run = PairedRun(teacher, rows, conditions)
    run.details()
    print("single prompts and KL measured", flush=True)
    for done in run.chunks():
        print(f"chunk {done} of {len(run)}", flush=True)
        if done % _SHOWN == 0:
            _show(run.rows())
    results = run.rows()
    _show(results)
    return Results(
        config={**vars(conditions), "order": "entropy", "dtype": args.dtype},
        versions=packages(),
        machine=machine(),
        teacher=TeacherCard(
            name=teacher.name, family=teacher.family, fingerprint=teacher.fingerprint
        ),
        methods=results,
    )


def _learned(trained: Trained, seconds: float) -> str:
    def ends(losses: list[float]) -> str:
        tail = max(1, len(losses) // 10)
        first, last = losses[:tail], losses[-tail:]
        return f"{sum(first) / tail:.4f} -> {sum(last) / tail:.4f}"

    return (
        f"trained in {seconds:.0f} s: circuit {ends(trained.circuit_losses)} nats per masked token "
        f"beside the marginals, dependency head {ends(trained.head_losses)}"
    )


def _show(rows: list[MethodResult]) -> None:
    for cells in (_HEADER, *map(_cells, rows)):
        print(_line(cells))
    print(_closing(rows), flush=True)


def _line(values: tuple[str, ...]) -> str:
    return " ".join(v.ljust(width) for v, width in zip(values, _WIDTHS, strict=True)).rstrip()


def _cells(row: MethodResult) -> tuple[str, ...]:
    def shown(interval: Interval | None) -> str:
        return "-" if interval is None else str(interval)

    nats = row.kl_on_tasks.get("sampled")
    return (
        row.method,
        row.knob,
        shown(row.accuracy),
        shown(row.accuracy_ratio),
        "-" if nats is None else shown(nats.nats_per_token),
        f"{row.teacher_passes:.1f}",
        f"{row.update_passes:.1f}",
        shown(row.cost),
        shown(row.cost_alone),
        f"{row.tokens_per_cost:.2f}",
    )


def _closing(rows: list[MethodResult]) -> str:
    nats = rows[-1].kl_on_tasks.get("sampled")
    return (
        f"{rows[0].samples} prompts; brackets: 95 %, paired bootstrap over prompts, of costs over "
        f"chunks; KL on {0 if nats is None else nats.nats_per_token.n} prompts at the method's own "
        "samples and states; cost: processor time per token relative to sequential"
    )
