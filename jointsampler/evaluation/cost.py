"""The cost of an update, in full passes, measured on the machine at hand.

The ratio c compares whole steps of the decoding loop: an update with everything
that follows it until the token is written (scoring, position, draw, and the
estimate where a rule reads one), against a full pass with the same. Both are timed
by running the loop itself, interleaved.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from statistics import median

import torch

from ..decoding.canvas import Canvas
from ..decoding.generate import synchronize
from ..decoding.loop import Decoder, Strategy
from ..decoding.orders import get_order
from ..decoding.sampling import Sampling
from ..decoding.stops import Adaptive, FixedK
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import NoUpdate, Update, as_update

_ROUND = 8  # reveals of a timed round


@dataclass(frozen=True)
class UpdateCost:
    full_seconds: float  # a full pass and the reveal after it, median
    update_seconds: float  # an update and the reveal after it, median
    ratio: float  # c
    batch: int
    length: int  # of the response

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def tokens_per_cost(self, tokens: int, teacher_rows: int, update_passes: int) -> float:
        """tokens / (teacher rows + c x update passes).

        A verification of k prefixes counts as k rows: on a device that is busy
        with one row they take the time of k full passes.
        """
        return tokens / (teacher_rows + self.ratio * update_passes)


def update_cost(
    teacher: Teacher,
    update: Update | JointSampler | None,
    batch: int,
    length: int,
    order: str = "entropy",
    repeats: int = 5,
    estimated: bool = False,
) -> UpdateCost:
    """The cost of ``update`` on ``batch`` rows of ``length`` tokens, half of them revealed.

    ``estimated``: with the estimate that ``adaptive`` reads before every update.
    """
    chosen = as_update(update)
    k = min(_ROUND, max(2, length // 2))
    rule = Adaptive(k, float("inf")) if estimated else FixedK(k)
    strategy = Strategy(chosen, rule, get_order(order), Sampling(), 0)
    single = replace(strategy, update=NoUpdate(), rule=FixedK(1))
    reading = chosen.reading(teacher)
    full, later = [], []
    for _ in range(repeats + 1):
        alone = _seconds(teacher, single, batch, length, k)
        whole = _seconds(reading, strategy, batch, length, k)
        full.append(alone / k)
        later.append(max(0.0, whole - alone / k) / (k - 1))
    first, rest = median(full[1:]), median(later[1:])  # the first repetition warms up
    return UpdateCost(first, rest, rest / first, batch, length)


def _seconds(teacher: Teacher, strategy: Strategy, batch: int, length: int, reveals: int) -> float:
    """Wall clock of ``reveals`` reveals in every row of a half-revealed canvas."""
    prompt = [[] if teacher.bos_id is None else [teacher.bos_id]] * batch
    canvas = Canvas(teacher, prompt, torch.arange(batch), length)
    known = length - max(reveals, length // 2)
    canvas.masked[:, :known] = False
    canvas.response(canvas.ids)[:, :known] = (
        teacher.pad_id if teacher.eos_id is None else teacher.eos_id
    )
    decoder = Decoder(teacher, strategy, canvas)
    synchronize(teacher.device)
    begin = time.perf_counter()
    decoder.run_reveals(length - known, reveals)
    synchronize(teacher.device)
    return time.perf_counter() - begin
