"""The states of one step, how much each counts, and how workers and parts share them.

A state's weight is its share of the whole batch's loss, so the losses and gradients of
any division of the batch, even or not, sum to those of the whole. Which rows and
positions are drawn is left to ``positions.py``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from .positions import DistillSettings, draw_depth, draw_jumps, draw_states


@dataclass(frozen=True)
class Batch:
    """B states, or a part of such a batch, and the D later states each is compared at."""

    index: Tensor  # [B] int64, trajectories
    starts: Tensor  # [B] int64, reveals made where the round opens
    advances: Tensor  # [D, B] int64, reveals between the opening and each later state
    weights: Tensor  # [D, B] float32, sums to 1 over a whole batch

    @classmethod
    def of(cls, reveals: Tensor, index: Tensor, starts: Tensor, advances: Tensor) -> Batch:
        """A whole batch. States whose row (of ``reveals`` [N]) has ended count nothing, the others alike."""
        alive = (starts + advances <= reveals[index] - 1).float()
        return cls(index, starts, advances, alive / alive.sum(1, keepdim=True).clamp_min(1))

    def __len__(self) -> int:
        return len(self.index)

    def part(self, states: range) -> Batch:
        """The states ``states``, with the weights that they have in this batch.

        Without any it is the first state at weight 0: workers that differentiate together
        must all make the same number of parts.
        """
        here = slice(states.start, states.stop) if states else slice(0, 1)
        weights = self.weights[:, here] * bool(states)
        return Batch(self.index[here], self.starts[here], self.advances[:, here], weights)

    def divided(self, among: int) -> list[Batch]:
        """This batch in ``among`` parts, as :func:`shares` says."""
        return [self.part(states) for states in shares(len(self), among)]


def draw_batch(
    reveals: Tensor, hybrid: bool, settings: DistillSettings, count: int, seed: int, step: int
) -> Batch:
    """The ``count`` states of a step, a function of (seed, step): the same on every worker.

    reveals: [N] int64, recorded reveals of each row. The paper's form compares a state at
    every depth up to a drawn one, a hybrid at one drawn depth for each state.
    """
    index, starts = draw_states(reveals, count, seed, step)
    if hybrid:
        advances = draw_jumps(settings, count, seed, step)[None]
    else:
        depths = torch.arange(1, draw_depth(settings, seed, step) + 1)
        advances = depths[:, None].expand(-1, count)
    return Batch.of(reveals, index, starts, advances)


def shares(count: int, among: int) -> list[range]:
    """``count`` states divided in order among ``among`` workers or parts, as evenly as they go."""
    bounds = [-(-i * count // among) for i in range(among + 1)]
    return [range(*pair) for pair in itertools.pairwise(bounds)]
