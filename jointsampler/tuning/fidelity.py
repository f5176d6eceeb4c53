"""Fidelity of candidates: nats per token at the samples and states that each of them visits.

Walks are those of ``evaluation/kl.py``. A walk in rounds of K also tells the nats of
shorter rounds, by the age of the round at each reveal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..corpus.trajectories import Trajectories
from ..decoding.loop import Strategy
from ..decoding.orders import get_order
from ..decoding.sampling import Sampling
from ..decoding.stops import FixedK
from ..evaluation.kl import Walk, walk
from ..evaluation.stats import Interval, bootstrap
from ..teachers.protocol import Teacher
from ..updates import Update
from .candidates import UpdateCase, walked

Job = tuple[UpdateCase, int]  # an update, and the reveals of each round of its walk


def ages(rounds: np.ndarray) -> np.ndarray:
    """[n, L] int64: reveals of the same round before each one; rounds [n, L] as in :class:`Walk`."""
    slot = np.arange(rounds.shape[1])
    begins = np.diff(rounds, axis=1, prepend=-2) != 0
    return slot - np.maximum.accumulate(np.where(begins, slot, 0), axis=1)


def nats_of_rounds(walks: Sequence[Walk], k: int) -> Interval:
    """Nats per token of rounds of k reveals, from walks in rounds of at least k; over trajectories."""
    units = []
    for each in walks:
        within = each.counted & (ages(each.round) < k)
        units.append(np.stack([(each.nats * within).sum(1), within.sum(1)], axis=1))
    rows = np.concatenate(units)
    return bootstrap(lambda m: m[..., 0] / m[..., 1], rows[rows[:, 1] > 0])


@dataclass
class Walks:
    """Walks so far, of ``per_turn`` trajectories each; every turn takes trajectories of its own.

    ``prompts``: token ids; trajectory i follows prompt i modulo their number.
    """

    teacher: Teacher
    prompts: list[list[int]]
    length: int
    order: str
    temperature: float
    seed: int
    per_turn: int
    found: dict[Job, list[Walk]] = field(default_factory=dict)

    def add(self, job: Job, update: Update) -> None:
        """One more turn of ``job``."""
        k = job[1]
        done = self.found.setdefault(job, [])
        sampling = Sampling(self.temperature)
        strategy = Strategy(update, FixedK(k), get_order(self.order), sampling, self.seed)
        done.append(
            walk(
                self.teacher, strategy, self._rows(len(done)), path="sampled",
                temperature=self.temperature,
            )
        )  # fmt: skip

    def nats(self, case: UpdateCase, k: int) -> Interval | None:
        """Nats per token of ``case`` in rounds of k; None where its walk was not made."""
        walks = self.found.get((case, walked(k, self.length)))
        return nats_of_rounds(walks, k) if walks else None

    @property
    def made(self) -> int:
        return sum(len(walks) for walks in self.found.values())

    def _rows(self, turn: int) -> Trajectories:
        """Prompts and row ids of a turn; a sampled walk reads neither tokens nor order."""
        rows = torch.arange(turn * self.per_turn, (turn + 1) * self.per_turn)
        blank = torch.full((self.per_turn, self.length), self.teacher.mask_id)
        return Trajectories(
            rows,
            [self.prompts[row % len(self.prompts)] for row in rows.tolist()],
            blank,
            torch.arange(self.length).expand_as(blank),
            self.seed,
            self.teacher.fingerprint,
        )
