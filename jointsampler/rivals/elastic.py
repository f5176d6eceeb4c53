"""Elastic-Cache: a sliding window of masked positions, and a full pass when attention has drifted.

Elastic-Cache (arXiv 2510.14973). A pass recomputes the leftmost ``window`` masked
positions and what has just been revealed; tokens are revealed inside the window
alone. In every layer the pass compares the attention that the window pays to one
known token, the one it attended to most in the pass before, with the attention of
that pass. Where the cosine similarity falls below ``gamma`` in any layer, the
stored keys and values are out of date.

What differs from the paper: it then recomputes all columns from the layer of the
drift upward, on stored inputs of that layer. A teacher here cannot begin in the
middle, so the round ends and a full pass opens the next one. The first partial pass
of a round has no pass of the window before it, so drift is known from the second on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..columns import Seen
from ..sampler.estimator import Foresight
from ..teachers.keyvalues import Keep
from ..teachers.protocol import Teacher
from ..updates import Opening, Refresh
from ..updates.refresh import RefreshRound
from .within import with_number


@dataclass(frozen=True)
class Window:
    """The revealed column, then the leftmost masked positions; after them the nearest known ones."""

    name = "window"
    keeps: Keep = "keys"

    def choose(self, count: int, seen: Seen) -> Tensor:
        size = seen.masked.shape[1]
        column = torch.arange(size, device=seen.masked.device)
        return seen.first(torch.where(seen.masked, column, size + seen.distance).double(), count)


class Elastic(Refresh):
    """For a rule that ends the round where the estimate, the drift, exceeds 1 - gamma.

    A position's last number is 0 inside the window and 1 outside: see ``within.py``.
    """

    name = "elastic"

    def __init__(self, window: int):
        super().__init__(window + 1, Window())
        self.window = window

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> ElasticRound:
        return ElasticRound(self, teacher, opening, attention_mask)


@dataclass
class _Tracked:
    """One layer's attention to the token that the window attended to most, in B rows."""

    token: Tensor  # [B] int64, a known position
    paid: Tensor  # [B, S] attention of each position to it
    queried: Tensor  # [B, S] bool, where ``paid`` is known


class ElasticRound(RefreshRound):
    def __init__(
        self, update: Elastic, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ):
        super().__init__(update, teacher, opening, attention_mask)
        self._window = update.window
        self._masked = opening.ids == teacher.mask_id  # [B, S]
        self._marked = self._with_window()
        self._columns: Tensor | None = None  # [B, C] int64, of the pass that runs
        self._tracked: dict[int, _Tracked] = {}
        self._drift = torch.zeros(len(self._masked), device=self._masked.device)  # of the last pass
        self._stored.watch = self._compare

    @property
    def states(self) -> Tensor:
        return self._marked

    def _with_window(self) -> Tensor:
        """[B, S, H + 1]: the states, and 0 inside the window."""
        inside = self._masked & (self._masked.cumsum(1) <= self._window)
        return with_number(self._buffer[:, :-1], ~inside)

    def recompute(self, ids: Tensor, columns: Tensor) -> Tensor:
        self._masked, self._columns = ids == self._teacher.mask_id, columns
        self._drift = torch.zeros_like(self._drift)
        positions = super().recompute(ids, columns)
        self._marked = self._with_window()
        return positions

    def estimate(self, seen: Foresight) -> Tensor:
        """[B] the drift of the last pass: 1 - the least cosine similarity over the layers."""
        return self._drift

    def _compare(self, call: int, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        """Drift of one layer, from queries [B, heads, C, D] and keys [B, kv_heads, S, D]."""
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits = query @ key.transpose(2, 3)
        if mask is not None:
            boolean = mask.dtype == torch.bool
            logits = logits.masked_fill(~mask, -torch.inf) if boolean else logits + mask
        paid = logits.float().softmax(-1).mean(1)  # [B, C, S]
        each = torch.arange(len(paid), device=paid.device)
        live = self._masked.gather(1, self._columns)  # [B, C], the window's masked positions
        before = self._tracked.get(call)
        if before is not None:
            now = paid[each, :, before.token]  # [B, C]
            then = before.paid.gather(1, self._columns)
            both = live & before.queried.gather(1, self._columns)
            now, then = (torch.where(both, x, 0.0) for x in (now, then))
            similar = torch.cosine_similarity(now, then, dim=1)
            self._drift = torch.maximum(self._drift, torch.where(both.any(1), 1 - similar, 0.0))
        received = (paid * live[..., None]).sum(1).masked_fill(self._masked, -1.0)  # [B, S]
        token = received.argmax(1)
        at = torch.zeros_like(received).scatter(1, self._columns, paid[each, :, token])
        queried = torch.zeros_like(self._masked).scatter(1, self._columns, live)
        self._tracked[call] = _Tracked(token, at, queried)


__all__ = ["Elastic", "ElasticRound", "Window"]
