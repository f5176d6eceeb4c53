"""The signature of a column policy, and what it may read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..teachers.keyvalues import Keep, KeyValues


@dataclass(frozen=True)
class Seen:
    """B rows of S columns right after a reveal, before the columns are recomputed.

    Column c of the teacher predicts position c + ``shift``. ``masked`` and ``scores``
    are in columns: they tell of the position that a column predicts.
    """

    position: Tensor  # [B] int64, where a token has just been revealed
    masked: Tensor  # [B, S] bool, may be revealed next
    scores: Tensor  # [B, S] order scores where masked; the lowest is revealed first
    shift: int
    attention_mask: Tensor | None  # [B, S] bool, False on padding
    stored: KeyValues  # of the round's full pass, with the columns recomputed since
    start: int = 0  # positions of the canvas before the responses
    previous: Tensor | None = None  # [B] int64, the round's reveal before; None at its first

    @classmethod
    def of(
        cls,
        position: Tensor,
        masked: Tensor,
        scores: Tensor,
        shift: int,
        attention_mask: Tensor | None,
        stored: KeyValues,
        start: int = 0,
        previous: Tensor | None = None,
    ) -> Seen:
        """From ``masked`` and ``scores`` [B, S] in positions of the canvas."""
        if shift:  # the last column predicts no position of the canvas
            edge = masked.shape[0], shift
            masked = torch.cat([masked[:, shift:], masked.new_zeros(edge)], dim=1)
            scores = torch.cat([scores[:, shift:], scores.new_zeros(edge)], dim=1)
        return cls(position, masked, scores, shift, attention_mask, stored, start, previous)

    @property
    def distance(self) -> Tensor:
        """[B, S] int64, from the revealed position to the one that a column predicts."""
        column = torch.arange(self.masked.shape[1], device=self.masked.device)
        return (column + self.shift - self.position[:, None]).abs()

    @property
    def ranked_scores(self) -> Tensor:
        """[B, S] float64 in [0, 1): a monotone map of the scores where masked."""
        scores = torch.where(self.masked, self.scores, 0.0).double()
        return (1 + scores / (1 + scores.abs())) / 2

    def rank(self, key: Tensor) -> Tensor:
        """[B, S] float64: the place of each column by ``key`` [B, S], 0 for the lowest; padding last."""
        if self.attention_mask is not None:
            key = key.masked_fill(~self.attention_mask, torch.inf)
        return key.argsort(dim=1, stable=True).argsort(dim=1).double()

    def first(self, key: Tensor, count: int) -> Tensor:
        """[B, C] int64: the revealed column, then those with the lowest ``key`` [B, S]; padding last."""
        if self.attention_mask is not None:
            key = key.masked_fill(~self.attention_mask, torch.inf)
        key = key.scatter(1, self.position[:, None], -torch.inf)
        return key.argsort(dim=1, stable=True)[:, :count]


@runtime_checkable
class ColumnPolicy(Protocol):
    """One file per implementation, registered in ``columns/__init__.py``."""

    name: str
    # What ``choose`` reads in ``Seen.stored``. Where queries are kept, the revealed column runs
    # through their layers before ``choose``: the keys there are those of the new token.
    keeps: Keep

    def choose(self, count: int, seen: Seen) -> Tensor:
        """Columns [B, C] int64 with C = min(count, S), all distinct, the revealed one among them."""
