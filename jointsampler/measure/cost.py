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
from ..decoding.scoring import order_scores
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..window import Window


@dataclass(frozen=True)
class PassCost:
    teacher_seconds: float  # one teacher pass with the scoring that follows it, median
    sampler_seconds: float  # one sampler pass, likewise
    ratio: float  # c
    batch: int
    length: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def tokens_per_pass(self, tokens: int, teacher_passes: int, sampler_passes: int) -> float:
        """Cost-weighted: tokens / (teacher passes + c x sampler passes)."""
        return tokens / (teacher_passes + self.ratio * sampler_passes)


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

    A sampler with a window is timed over a block of its k_max, whose first pass costs more.
    """
    teacher = sampler.reading(teacher)
    prompt = [[] if teacher.bos_id is None else [teacher.bos_id]] * batch
    canvas = Canvas(teacher, prompt, torch.arange(batch), length)
    canvas.masked[:, : length // 2] = False
    opening = teacher.hidden(canvas.ids)
    policy, most = get_order(order), length - length // 2

    def scored(hidden: Tensor, masked: Tensor, most: int) -> Tensor:
        states = canvas.response(hidden)
        return order_scores(teacher, states, masked, canvas.rows, policy, 0, most)

    def timed(step: Callable[[], None]) -> float:
        times = []
        for _ in range(repeats + 1):  # the first warms up
            synchronize(teacher.device)
            begin = time.perf_counter()
            step()
            synchronize(teacher.device)
            times.append(time.perf_counter() - begin)
        return median(times[1:])

    def teacher_pass() -> None:
        scored(teacher.hidden(canvas.ids), canvas.masked, most)

    size = sampler.config.window
    passes = max(1, sampler.config.k_max - 1) if size else 1
    scores = scored(opening, canvas.masked, most)

    def sampler_passes() -> None:
        hidden, masked, window = opening, canvas.masked, None
        if size:
            window = Window.first(scores, size, canvas.start)
            masked = masked & window.inside(canvas.start, length)
        for _ in range(passes):
            hidden = sampler(teacher.embed(canvas.ids), hidden, None, window)
            scored(hidden, masked, min(most, size or most))

    teacher_seconds = timed(teacher_pass)
    sampler_seconds = timed(sampler_passes) / passes
    return PassCost(
        teacher_seconds, sampler_seconds, sampler_seconds / teacher_seconds, batch, length
    )
