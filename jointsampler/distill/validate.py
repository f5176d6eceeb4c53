"""Validation of a training: captured dependency and nats per token on held-out trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..corpus.trajectories import Trajectories
from ..evaluation.kl import Reference, block_kl, summarize
from ..memory import BatchSize
from ..sampler import JointSampler
from ..teachers.protocol import Teacher


@dataclass(frozen=True)
class Place:
    """Which of the workers this one is."""

    rank: int = 0
    world: int = 1


class Validator:
    """Measures a sampler on held-out trajectories.

    Each worker measures a share of the rows. The teacher's states and the marginal
    model's KL do not change in a training; they are computed once.
    """

    def __init__(
        self,
        teacher: Teacher,
        held_out: Trajectories,
        ks: Sequence[int],
        temperature: float,
        order: str,
        place: Place | None = None,
    ):
        """``temperature`` and ``order`` of the corpus; a temperature above 0."""
        self.teacher, self.ks, self.temperature, self.order = teacher, ks, temperature, order
        self.place = place = place or Place()
        self.rows = held_out.select(range(len(held_out))[place.rank :: place.world])
        self.batch_size = BatchSize.of(teacher, held_out.width, "validation", 128, len(self.rows))
        self.reference: Reference | None = None

    def __call__(self, sampler: JointSampler) -> dict[str, float]:
        """captured_kK and nats_kK for every k, nan where the sampler's output is not a number."""
        share: dict[int, np.ndarray] = {k: np.empty((0, 4)) for k in self.ks}
        if len(self.rows):
            share = self._share(sampler)
        metrics = {}
        for k in self.ks:
            whole = summarize(k, np.concatenate(gathered(share[k], self.place.world)))
            broken = whole.captured is None or whole.update is None
            metrics[f"captured_k{k}"] = math.nan if broken else whole.captured.value
            metrics[f"nats_k{k}"] = math.nan if broken else whole.update.value / k
        return metrics

    def _share(self, sampler: JointSampler) -> dict[int, np.ndarray]:
        """k -> nats per trajectory of this worker's rows, as in ``BlockKL.per_trajectory``."""
        if self.reference is None:
            self.reference = Reference(self.teacher, self.rows, self.batch_size)
        return {
            k: block_kl(
                self.teacher,
                sampler,
                self.rows,
                k,
                temperature=self.temperature,
                order=self.order,
                reference=self.reference,
            ).per_trajectory
            for k in self.ks
        }


def gathered(own: Any, world: int) -> list[Any]:
    """The object ``own`` of every worker, by rank."""
    if world == 1:
        return [own]
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, own)
    return parts
