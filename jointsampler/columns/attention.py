"""The revealed column, then in turn the column that attends to its new token most, and the one revealed next.

What a reveal changes, it changes through the attention that its column receives,
near or far. The new token's keys in the lower layers are computed first, on that
column alone: to the mask that stood there before, other columns attend differently.
The attention is the mean over these layers and all heads, for one key at a time from
stored queries (``teachers/keyvalues.py``). Every second place goes to the position
that the order would reveal next, which must not be stale.

Measured on the embedded teacher (own order, 8 columns, forward KL in nats per token):
code of 96 tokens at k = 8 .022, near-then-scores .022; prompted tasks at k = 4 .004,
near-then-scores .044, the attention to the mask .027 (docs/ablations.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .protocol import Seen


@dataclass(frozen=True)
class Attention:
    name = "attention"
    keeps = "queries"

    def choose(self, count: int, seen: Seen) -> Tensor:
        received = seen.stored.attention_to(seen.position).double()
        # Columns that predict nothing to be revealed come after all that do.
        attending = seen.rank(torch.where(seen.masked, 1 - received, 3 - received))
        soon = seen.rank(torch.where(seen.masked, seen.ranked_scores, 3 - received))
        return seen.first(torch.minimum(2 * attending, 2 * soon + 1), count)
