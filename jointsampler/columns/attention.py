"""The revealed column, then masked columns that attend to its new token, and those revealed next.

What a reveal changes, it changes through the attention that its column receives.
The new token's keys in the lower layers are computed first, on that column alone:
to the mask that stood there before, other columns attend differently. The attention
is the mean over these layers and all heads, for one key at a time from stored
queries, so no S x S map is held (``teachers/keyvalues.py``). Every other place goes
to a near masked neighbour or to the position that the order would reveal next,
because that one must not be stale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .near_then_scores import near_then_scores
from .protocol import Seen


@dataclass(frozen=True)
class Attention:
    name = "attention"
    keeps, peeks = "queries", True

    def choose(self, count: int, seen: Seen) -> Tensor:
        received = seen.stored.attention_to(seen.position, seen.peeked).double()
        # Columns that predict nothing to be revealed come after all that do.
        attending = seen.rank(torch.where(seen.masked, 1 - received, 3 - received))
        soon = seen.rank(near_then_scores(seen, near=2))
        return seen.first(torch.minimum(2 * soon, 2 * attending + 1), count)
