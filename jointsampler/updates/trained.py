"""The trained update: one pass of the joint sampler over the whole canvas after each reveal.

The states of every position may change (arXiv 2509.22738, section 3). The same
round serves decoding, the meters and, with gradients, the training step.
"""

from __future__ import annotations

from torch import Tensor

from ..sampler import JointSampler
from ..sampler.estimator import Foresight
from ..teachers.protocol import Teacher
from .protocol import Opening, Reveal


class Trained:
    name = "joint"
    passes = estimates = True
    ranks, keeps = False, "nothing"

    def __init__(self, sampler: JointSampler):
        """``sampler``: the module of depth 0, or an engine of DeepSpeed around it."""
        self.sampler = sampler
        self.module: JointSampler = getattr(sampler, "module", sampler)

    @property
    def k_max(self) -> int:
        return self.module.config.k_max

    def reading(self, teacher: Teacher) -> Teacher:
        return self.module.reading(teacher)

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> TrainedRound:
        return TrainedRound(self, teacher, opening.states, attention_mask)


class TrainedRound:
    def __init__(
        self, update: Trained, teacher: Teacher, opening: Tensor, attention_mask: Tensor | None
    ):
        self.opening = self.states = opening
        self._update, self._teacher, self._mask = update, teacher, attention_mask

    def advance(self, reveal: Reveal) -> None:
        self.states = self._pass(reveal.ids)

    def last(self, ids: Tensor, columns: Tensor) -> Tensor:
        """States at ``columns`` [B, C] alone after the reveals in ids [B, S]: [B, C, H or more].

        For the last update of a training step, which no other follows; ``states``
        stay as they were.
        """
        return self._pass(ids, columns)

    def _pass(self, ids: Tensor, columns: Tensor | None = None) -> Tensor:
        embedded = self._teacher.embed(ids)
        return self._update.sampler(embedded, self.states, self._mask, columns)

    def estimate(self, seen: Foresight) -> Tensor:
        return self._update.module.estimator(seen)
