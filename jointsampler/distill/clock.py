"""Measurements since the last report of a training: mean metrics, rates, shares of the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .targets import TeacherStates


class Recent:
    """Means over the steps since the last report; a step need not have every metric.

    The parts of a step add up, and so do the means of the workers.
    """

    def __init__(self) -> None:
        self.step: dict[str, Tensor] = {}  # sums over the parts of the step that is being made
        self.values: dict[str, list[Tensor]] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.step[name] = self.step[name] + value if name in self.step else value

    def end_step(self) -> None:
        for name, value in self.step.items():
            self.values.setdefault(name, []).append(value)
        self.step = {}

    def means(self) -> dict[str, float]:
        return {name: torch.stack(values).mean().item() for name, values in self.values.items()}


class Clock:
    """How the time between two reports divides among the teacher, the kept states and the sampler."""

    def __init__(self, states: TeacherStates, step: int):
        self.states, self.step = states, step
        self.begin = time.monotonic()
        self.away = 0.0  # seconds in :meth:`paused`
        self.marks = (states.teacher_seconds, states.seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that the body takes."""
        left = time.monotonic()
        yield
        self.away += time.monotonic() - left

    def read(self, batch_size: int, done: int, steps: int) -> dict[str, float]:
        """Rates and shares since the last reading, after ``done`` of ``steps`` steps."""
        now, made = time.monotonic(), done - self.step
        elapsed = max(now - self.begin - self.away, 1e-9)
        teacher = self.states.teacher_seconds - self.marks[0]
        data = self.states.seconds - self.marks[1] - teacher
        rates = {
            "states_per_second": made * batch_size / elapsed,
            "seconds_left": (steps - done) * elapsed / made,
            "share_teacher": teacher / elapsed,
            "share_data": data / elapsed,
            "share_sampler": 1 - (teacher + data) / elapsed,
        }
        self.begin, self.away, self.step = now, 0.0, done
        self.marks = (self.states.teacher_seconds, self.states.seconds)
        return rates
