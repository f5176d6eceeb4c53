"""The signature of a column policy."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ColumnPolicy(Protocol):
    def choose(
        self,
        position: Tensor,
        masked: Tensor,
        scores: Tensor,
        shift: int,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Columns [B, C] int64 of a canvas of S columns, all distinct, the revealed one among them.

        position: [B] where a token has just been revealed; masked: [B, S] bool,
        positions that may be revealed next; scores: [B, S] order scores where masked
        (the lowest is revealed first); shift: column c predicts position c + shift;
        attention_mask: [B, S] bool, False on padding.
        """
