"""The cost of an update, in full passes, measured on the machine at hand.

The ratio c compares whole steps of the decoding loop: an update with everything
that follows it until the token is written (scoring, position, draw, and the
estimate where a rule reads one), against a full pass with the same. Both are timed
by running the loop itself, interleaved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch

from ..decoding.canvas import Canvas
from ..decoding.generate import synchronize
from ..decoding.loop import Decoder
from ..decoding.orders import get_order
from ..decoding.sampling import Sampling
from ..decoding.stops import Adaptive, FixedK
from ..decoding.strategy import Strategy
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
    full, (later,) = step_seconds(teacher, [update], batch, length, order, repeats, estimated)
    first, rest = median(full), median(later)
    return UpdateCost(first, rest, rest / first, batch, length)


def step_seconds(
    teacher: Teacher,
    updates: Sequence[Update | JointSampler | None],
    batch: int,
    length: int,
    order: str = "entropy",
    repeats: int = 5,
    estimated: bool = False,
    prompt: int = 0,
    limit: float = math.inf,
) -> tuple[list[float], list[list[float]]]:
    """(seconds of a full pass, seconds of each update), ``repeats`` of each, each with its reveal.

    All are timed in turn, repetition by repetition, so that a busy machine slows all
    alike. A repetition before the first warms up. After ``limit`` seconds no further
    repetition begins, except the first. ``prompt``: tokens before the response, at
    least the token that opens every sequence.
    """
    begin = time.perf_counter()
    k = timed_reveals_of(length)
    rule = Adaptive(k, float("inf")) if estimated else FixedK(k)
    chosen = [as_update(update) for update in updates]
    strategies = [Strategy(each, rule, get_order(order), Sampling(), 0) for each in chosen]
    single = Strategy(NoUpdate(), FixedK(1), get_order(order), Sampling(), 0)
    readings = [each.reading(teacher) for each in chosen]
    full: list[float] = []
    later: list[list[float]] = [[] for _ in chosen]
    for repeat in range(repeats + 1):
        if repeat > 1 and time.perf_counter() - begin > limit:
            break
        alone = sum(_seconds(teacher, single, batch, length, k, prompt)) / k
        rounds = [
            _seconds(reading, strategy, batch, length, k, prompt)
            for reading, strategy in zip(readings, strategies, strict=True)
        ]
        if repeat:  # the first repetition warms up
            full.append(alone)
            for found, (opening, updates) in zip(later, rounds, strict=True):
                # What an opening stores for the updates is theirs too.
                found.append((updates + max(0.0, opening - alone)) / (k - 1))
    return full, later


def timed_reveals_of(length: int) -> int:
    """Reveals of the timed round in a response of ``length`` tokens."""
    return min(_ROUND, max(2, length // 2))


def _seconds(
    teacher: Teacher, strategy: Strategy, batch: int, length: int, reveals: int, prompt: int
) -> tuple[float, float]:
    """Wall clock of ``reveals`` reveals in every row of a half-revealed canvas: (the first, the others).

    No difference of two runs, in which the noise of a busy machine could exceed an update.
    """
    filler = teacher.pad_id if teacher.eos_id is None else teacher.eos_id
    opening = [] if teacher.bos_id is None else [teacher.bos_id]
    opening += [filler] * (prompt - len(opening))
    canvas = Canvas(teacher, [opening] * batch, torch.arange(batch), length)
    known = length - max(reveals, length // 2)
    canvas.masked[:, :known] = False
    canvas.response(canvas.ids)[:, :known] = filler
    marks: list[float] = []

    def mark(canvas: Canvas) -> None:
        if len(marks) < 2:  # at the beginning, and after the first reveal
            synchronize(teacher.device)
            marks.append(time.perf_counter())

    decoder = Decoder(teacher, strategy, canvas, after=mark)
    mark(canvas)
    decoder.run_reveals(length - known, reveals)
    synchronize(teacher.device)
    begin, first = marks
    return first - begin, time.perf_counter() - first
