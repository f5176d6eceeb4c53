"""What a pass costs: the ratio c of a sampler pass to a teacher pass, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor

from ..decoding.canvas import Canvas
from ..decoding.generate import synchronize
from ..decoding.orders import get_order
from ..decoding.readout import Head, Readout, opened
from ..sampler.model import JointSampler
from ..teachers.protocol import Teacher
from ..window import Window


@dataclass(frozen=True)
class PassCost:
    teacher_seconds: float  # one teacher pass with the scoring and readout that follow it, median
    sampler_seconds: float  # one sampler pass, likewise
    ratio: float  # c
    batch: int
    length: int
    first: float = 0.0  # what a block's first sampler pass costs beyond c, where there is a window

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def tokens_per_pass(self, tokens: int, teacher_passes: int, sampler_passes: int) -> float:
        """Cost-weighted: tokens / (teacher passes + c x sampler passes), and what first passes add."""
        blocks = min(teacher_passes, sampler_passes)  # at most these had a sampler pass
        return tokens / (teacher_passes + self.ratio * sampler_passes + self.first * blocks)


@torch.inference_mode()
def pass_cost(
    teacher: Teacher,
    sampler: JointSampler,
    batch: int,
    length: int,
    order: str = "entropy",
    repeats: int = 7,
) -> PassCost:
    """Median seconds of both passes on a canvas of ``batch`` rows with half its response masked.

    Of a sampler with a window, c is a later pass of a block and ``first`` what its first one adds.
    """
    teacher = sampler.reading(teacher)
    prompt = [[] if teacher.bos_id is None else [teacher.bos_id]] * batch
    canvas = Canvas(teacher, prompt, torch.arange(batch), length)
    canvas.masked[:, : length // 2] = False
    opening = teacher.hidden(canvas.ids)
    head, most = Head(teacher, canvas, get_order(order), 0), length - length // 2

    def timed(
        step: Callable[[Tensor], Tensor],
        begin_block: Callable[[], Readout],
        masked: Tensor,
        most: int,
    ) -> list[float]:
        """Seconds of two passes, one after the other, each with the scoring and readout that follow it."""
        times, hidden, readout = [], opening, None
        for _ in range(2):
            synchronize(teacher.device)
            begin = time.perf_counter()
            readout = readout or begin_block()
            hidden = step(hidden)
            position = readout.scores(hidden, masked, most).argmin(dim=1)
            readout.logits(hidden, position)  # what is drawn from
            synchronize(teacher.device)
            times.append(time.perf_counter() - begin)
        return times

    def teacher_passes() -> list[float]:
        return timed(lambda _: teacher.hidden(canvas.ids), lambda: head, canvas.masked, most)

    scores = head.scores(opening, canvas.masked, most)
    size = min(sampler.config.window, most)

    def block() -> list[float]:
        window, masked = None, canvas.masked
        if size:
            window = Window.first(scores, size, canvas.start)
            masked = masked & window.inside(canvas.start, length)

        def sampler_pass(hidden: Tensor) -> Tensor:
            return sampler(teacher.embed(canvas.ids), hidden, None, window)

        return timed(
            sampler_pass, lambda: opened(head, sampler, opening, window), masked, size or most
        )

    asked = [teacher_passes() for _ in range(repeats + 1)]
    blocks = [block() for _ in range(repeats + 1)]
    whole = median(seconds for passes in asked[1:] for seconds in passes)  # the first warms up
    first, later = (median(passes[i] for passes in blocks[1:]) for i in range(2))
    if not size:
        first = later = median(seconds for passes in blocks[1:] for seconds in passes)
    return PassCost(whole, later, later / whole, batch, length, max(0.0, (first - later) / whole))
