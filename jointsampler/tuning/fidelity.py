"""Fidelity of candidates: nats per token at the samples and states that each of them visits.

Walks are those of ``evaluation/kl.py``. A walk in rounds of K also tells the nats of
shorter rounds, by the age of the round at each reveal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..corpus.trajectories import Trajectories
from ..decoding.orders import get_order
from ..decoding.sampling import Sampling
from ..decoding.strategy import Strategy
from ..evaluation.kl import Walk, walk
from ..evaluation.stats import Interval, bootstrap
from ..teachers.protocol import Teacher
from ..updates import Update
from .candidates import Rounds, RuleCase, UpdateCase, stop_rule, walked

_GOLDEN = (math.sqrt(5) - 1) / 2
Job = tuple[UpdateCase, Rounds]  # an update, and the rounds of its walk


def ages(rounds: np.ndarray) -> np.ndarray:
    """[n, L] int64: reveals of the same round before each one; rounds [n, L] as in :class:`Walk`."""
    slot = np.arange(rounds.shape[1])
    begins = np.diff(rounds, axis=1, prepend=-2) != 0
    return slot - np.maximum.accumulate(np.where(begins, slot, 0), axis=1)


def nats_of_rounds(walks: Sequence[Walk], k: float = math.inf) -> Interval:
    """Nats per token of rounds of k reveals, from walks in rounds of at least k; over trajectories.

    Without k: of the rounds as they were.
    """
    units = []
    for each in walks:
        within = each.counted & (ages(each.round) < k)
        units.append(np.stack([(each.nats * within).sum(1), within.sum(1)], axis=1))
    rows = np.concatenate(units)
    return bootstrap(lambda m: m[..., 0] / m[..., 1], rows[rows[:, 1] > 0])


def reveals_of_rounds(walks: Sequence[Walk]) -> list[list[int]]:
    """The reveals of each round of every row that made some."""
    rows = [row[row >= 0] for each in walks for row in each.round]
    return [np.unique(row, return_counts=True)[1].tolist() for row in rows if len(row)]


def spread_over(row: int, count: int) -> int:
    """The one of ``count`` prompts that trajectory ``row`` follows: the first ones are far apart.

    Multiples of the golden ratio modulo 1 fill the interval evenly at every length.
    """
    return int(row * _GOLDEN % 1 * count)


@dataclass
class Walks:
    """Walks so far, of ``per_turn`` trajectories each; every turn takes trajectories of its own.

    ``prompts``: token ids. Trajectories are spread over them, because prompts of one kind
    often stand together.
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
        done = self.found.setdefault(job, [])
        rule, sampling = stop_rule(job[1], self.length), Sampling(self.temperature)
        strategy = Strategy(update, rule, get_order(self.order), sampling, self.seed)
        done.append(
            walk(
                self.teacher, strategy, self._rows(len(done)), path="sampled",
                temperature=self.temperature,
            )
        )  # fmt: skip

    def nats(self, case: UpdateCase, rounds: Rounds) -> Interval | None:
        """Nats per token of ``case`` in ``rounds``; None where its walk was not made."""
        if isinstance(rounds, RuleCase):
            walks = self.found.get((case, rounds))
            return nats_of_rounds(walks) if walks else None
        walks = self.found.get((case, walked(rounds, self.length)))
        return nats_of_rounds(walks, rounds) if walks else None

    def reveals(self, case: UpdateCase, rule: RuleCase) -> list[list[int]] | None:
        """As :func:`reveals_of_rounds`; None where the walk was not made."""
        walks = self.found.get((case, rule))
        return reveals_of_rounds(walks) if walks else None

    @property
    def made(self) -> int:
        return sum(len(walks) for walks in self.found.values())

    def _rows(self, turn: int) -> Trajectories:
        """Prompts and row ids of a turn; a sampled walk reads neither tokens nor order."""
        rows = torch.arange(turn * self.per_turn, (turn + 1) * self.per_turn)
        blank = torch.full((self.per_turn, self.length), self.teacher.mask_id)
        return Trajectories(
            rows,
            [self.prompts[spread_over(row, len(self.prompts))] for row in rows.tolist()],
            blank,
            torch.arange(self.length).expand_as(blank),
            self.seed,
            self.teacher.fingerprint,
        )
