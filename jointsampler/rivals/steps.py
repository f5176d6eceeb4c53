"""Partial passes that serve several reveals each: the step of the published caches.

The published decoders run one pass over a few columns, reveal one or several
tokens from it, and run the next. A refresh runs a pass after every reveal. Here
``tokens`` reveals share a pass, as if independent of each other; all that were
revealed since the pass before are recomputed with the policy's columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..columns import ColumnPolicy
from ..errors import UserError
from ..teachers.protocol import Teacher
from ..updates import Opening, Refresh, Reveal
from ..updates.refresh import RefreshRound


class Steps(Refresh):
    """A refresh after every ``tokens`` reveals; UserError where these are fewer than 1."""

    name = "steps"
    estimates = False

    def __init__(self, columns: int, policy: str | ColumnPolicy, tokens: int = 1):
        super().__init__(columns, policy)
        if tokens < 1:
            raise UserError(f"A step reveals at least 1 token, not {tokens}.")
        self.tokens = tokens

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> StepsRound:
        return StepsRound(self, teacher, opening, attention_mask)


class StepsRound(RefreshRound):
    def __init__(
        self, update: Steps, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ):
        super().__init__(update, teacher, opening, attention_mask)
        self._tokens = update.tokens
        self._fresh: list[Tensor] = []  # [B] int64 each, revealed since the last pass

    def advance(self, reveal: Reveal) -> Tensor:
        self._fresh.append(reveal.position)
        if len(self._fresh) < self._tokens:
            return torch.empty(len(reveal.ids), 0, dtype=torch.long, device=reveal.ids.device)
        # A row may name a column twice.
        columns = torch.cat([self.choose(reveal), *(p[:, None] for p in self._fresh[:-1])], dim=1)
        self._fresh = []
        return self.recompute(reveal.ids, columns)
