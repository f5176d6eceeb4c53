"""The hybrid update: the teacher's lower layers at a few columns, then the trained layer.

The sampler has depth m. After a reveal, the teacher's lowest m layers rerun at a
few columns, on stored keys and values (``teachers/columns.py``). The change of
their output is carried to the top of the network, past the L - m layers that do
not run, and the trained layer corrects the carry:

    carry = top_t + low_{t+d} - low_t,    h = norm(carry) + correction(low_{t+d}, low_t, norm(carry))

with top the output of the last layer before the final norm and low that of layer m.
An update is a function of the round's opening and of the canvas now. It is not
recurrent, so errors do not pile up, and a state of the training is one pass. Columns
that are not recomputed keep their states, and their keys and values in all m + 1 layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..columns import ColumnPolicy, get_policy
from ..errors import UserError
from ..sampler import JointSampler, at_columns
from ..sampler.estimator import Foresight
from ..teachers.keyvalues import Keep
from ..teachers.protocol import Teacher, position_ids
from .at_columns import checked_columns, chosen, served, with_slot, write
from .protocol import Opening, Reveal


class Hybrid:
    """``sampler``, of depth 1 or more, at ``columns`` columns per update, chosen by ``policy``.

    Raises UserError: a sampler of depth 0, columns < 1, an unknown policy.
    """

    name = "joint"
    passes = ranks = estimates = True

    def __init__(
        self, sampler: JointSampler, columns: int = 8, policy: str | ColumnPolicy = "attention"
    ):
        if not sampler.config.depth:
            raise UserError("A sampler of depth 0 reads the whole canvas: it takes no columns.")
        self.module = sampler
        self.columns, self.policy = checked_columns(columns), get_policy(policy)
        self.keeps: Keep = self.policy.keeps

    @property
    def k_max(self) -> int:
        return self.module.config.k_max

    def reading(self, teacher: Teacher) -> Teacher:
        return self.module.reading(teacher)

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> HybridRound:
        return HybridRound(self, teacher, opening, attention_mask)


def carried(teacher: Teacher, low: Tensor, low_before: Tensor, top_before: Tensor) -> Tensor:
    """norm(carry), [..., H]: the guess that the trained layer corrects."""
    return teacher.finish(top_before + (low - low_before))


class HybridRound:
    def __init__(
        self, update: Hybrid, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ):
        self.opening = opening.states
        self._update, self._sampler = update, update.module
        self._teacher, self._mask, self._stored = teacher, attention_mask, opening.stored
        final, self._low, self._top = with_slot(opening.states).split(teacher.hidden_size, dim=-1)
        self._buffer = final.clone()
        self._previous: Tensor | None = None  # [B] int64, the last reveal
        self._keys: Tensor | None = None  # [B, heads, S + 1, head_dim], of the trained layer
        self._values: Tensor | None = None
        self._places, self._key_mask = self._all_places(), self._visible()

    @property
    def states(self) -> Tensor:
        return self._buffer[:, :-1]

    def _all_places(self) -> Tensor:
        """[B or 1, S + 1] int64, rotary positions; the slot for no position has one too."""
        count = self.opening.shape[1] + 1
        if self._mask is None:
            return torch.arange(count, device=self.opening.device)[None]
        real = position_ids(self._mask)
        return torch.cat([real, real[:, -1:] + 1], dim=1)

    def _visible(self) -> Tensor:
        """[B or 1, 1, 1, S + 1] bool: the keys that the trained layer may read."""
        size = self.opening.shape[1]
        real = self._mask
        if real is None:
            real = torch.ones(1, size, dtype=torch.bool, device=self.opening.device)
        none = torch.zeros_like(real[:, :1])
        return torch.cat([real, none], dim=1)[:, None, None]

    def advance(self, reveal: Reveal) -> Tensor:
        teacher, sampler, size = self._teacher, self._sampler, reveal.ids.shape[1]
        if self._keys is None:
            x = sampler.fused(self._low, self._buffer, self._low)
            _, self._keys, self._values = sampler.layer.read(x, *sampler.angles(self._places))
        columns = chosen(self._update, teacher, reveal, self._mask, self._stored, self._previous)
        self._previous = reveal.position
        depth = sampler.config.depth
        outputs = teacher.rerun(reveal.ids, columns, self._mask, self._stored, depth)
        positions, low = served(teacher, columns, outputs, self._mask, size)
        write(self._buffer, positions, self._corrected(low, positions))
        return positions

    def _corrected(self, low: Tensor, positions: Tensor) -> Tensor:
        """The trained layer at positions [B, C]; their keys and values replace the stored ones."""
        sampler = self._sampler
        before, top = at_columns(self._low, positions), at_columns(self._top, positions)
        guess = carried(self._teacher, low, before, top)
        x = sampler.fused(low, guess, before)
        places = self._places.expand(len(positions), -1).gather(1, positions)
        q, k, v = sampler.layer.read(x, *sampler.angles(places))
        index = positions[:, None, :, None].expand_as(k)
        self._keys.scatter_(2, index, k)
        self._values.scatter_(2, index, v)
        x = sampler.layer.mix(x, q, self._keys, self._values, self._key_mask)
        return sampler.corrected(guess, x)

    def estimate(self, seen: Foresight) -> Tensor:
        return self._sampler.estimator(seen)


__all__ = ["Hybrid", "HybridRound", "carried"]
