"""What a pass costs: the ratio c of a sampler pass to a teacher pass, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import torch

from ..decoding.canvas import Canvas
from ..decoding.generate import synchronize
from ..decoding.orders import get_order
from ..decoding.scoring import order_scores
from ..sampler import JointSampler
from ..teachers.protocol import Teacher


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
    """Median seconds of both passes on a canvas of ``batch`` rows with half its response masked."""
    teacher = sampler.reading(teacher)
    prompt = [[] if teacher.bos_id is None else [teacher.bos_id]] * batch
    canvas = Canvas(teacher, prompt, torch.arange(batch), length)
    canvas.masked[:, : length // 2] = False
    opening = teacher.hidden(canvas.ids)
    policy, most = get_order(order), length - length // 2

    def timed(step: Callable[[], torch.Tensor]) -> float:
        times = []
        for _ in range(repeats + 1):  # the first warms up
            synchronize(teacher.device)
            begin = time.perf_counter()
            hidden = canvas.response(step())
            order_scores(teacher, hidden, canvas.masked, canvas.rows, policy, 0, most)
            synchronize(teacher.device)
            times.append(time.perf_counter() - begin)
        return median(times[1:])

    teacher_seconds = timed(lambda: teacher.hidden(canvas.ids))
    sampler_seconds = timed(lambda: sampler(teacher.embed(canvas.ids), opening))
    return PassCost(
        teacher_seconds, sampler_seconds, sampler_seconds / teacher_seconds, batch, length
    )
