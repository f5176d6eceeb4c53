"""The table of ``jointsampler compare --rivals``: published methods beside ours, paired.

Says what is printed; what is compared is in ``jointsampler/rivals``, how in
``evaluation/paired.py``.
"""

from __future__ import annotations

import argparse
import time

from ..errors import unknown_name
from ..evaluation.paired import Paired, PairedRun
from ..evaluation.results import MethodResult, Results, SamplerCard
from ..rivals import LEARNED, Trained, contenders, train
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import Update
from .tables import bases, line, shown, statistics

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
)
_SHOWN = 2  # chunks between two tables of what is measured so far
_WIDTHS = (14, 38, 21, 21, 21, 6, 8, 21, 21)


def compare_rivals(
    args: argparse.Namespace,
    teacher: Teacher,
    updates: dict[str, Update],
    sampler: JointSampler | None,
) -> Results:
    """Train what the rivals need, measure, print. ``updates``: those of the rows refresh and joint."""
    conditions = Paired(args.prompts_per_task, args.max_new_tokens, seed=args.seed)
    length, names = args.max_new_tokens, args.methods
    known = {row.name for row in contenders(length, args.seed, updates)} | set(LEARNED)
    for name in names or ():
        if name not in known:
            raise unknown_name("method", name, known)
    measured = {"sequential", *names} if names else known
    against = bases(args.against, ("sequential", "refresh"), measured)
    trained = None
    if not names or set(names) & set(LEARNED):
        begin = time.process_time()
        trained = train(teacher, length)
        print(_learned(trained, time.process_time() - begin), flush=True)
    rows = contenders(length, args.seed, updates, trained)
    rows = [row for row in rows if not names or row is rows[0] or row.name in names]
    run = PairedRun(teacher, rows, conditions)
    run.details()
    print("single prompts and KL measured", flush=True)
    for done in run.chunks():
        print(f"chunk {done} of {len(run)}", flush=True)
        if done % _SHOWN == 0 and done < len(run):
            _show(run.rows())
    results = run.results(against)
    results.config["dtype"] = args.dtype
    if sampler is not None and any(row.name == "joint" for row in rows):
        results.sampler = SamplerCard.of(sampler)
    _show(results.methods)
    print("\n".join(statistics(results, against)), flush=True)
    return results


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
        print(line(cells, _WIDTHS))
    print(_closing(rows), flush=True)


def _cells(row: MethodResult) -> tuple[str, ...]:
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
    )


def _closing(rows: list[MethodResult]) -> str:
    nats = rows[-1].kl_on_tasks.get("sampled")
    return (
        f"{rows[0].samples} prompts; brackets: 95 %, paired bootstrap over prompts, of costs over "
        f"chunks; KL on {0 if nats is None else nats.nats_per_token.n} prompts at the method's own "
        "samples and states; cost: time per response relative to sequential (on a CPU, processor time)"
    )
