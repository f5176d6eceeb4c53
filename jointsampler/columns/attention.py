"""The revealed column, then the columns that attend to its new token most, and the one revealed next.

What a reveal changes, it changes through the attention that its column receives,
near or far. The new token's keys in the lower layers are computed first, on that
column alone: to the mask that stood there before, other columns attend differently.
The attention is the mean over these layers and all heads, for one key at a time from
stored queries (``teachers/keyvalues.py``). Near columns get a small bonus, because the
lower layers do not show all that the upper ones read there. Policy "attention" reads a
quarter of the layers; "deep" reads two thirds, for one column in more layers, with half
the bonus: dependencies that are far may form above the lowest quarter. Every third place goes to
the position that the order would reveal next, which must not be stale. Behind the first
four or five, every third place goes to a column whose token is known: what it adds to the
others through its keys and values follows the new token too.

The default: on code better than the neighbours alone, on prompted tasks and far
dependencies much better (docs/ablations.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..teachers.keyvalues import Keep
from .protocol import Seen


@dataclass(frozen=True)
class Attention:
    near: float = 0.1  # added to the attention that a column at distance d pays, over 1 + d
    name: str = "attention"
    keeps: Keep = "queries"

    def choose(self, count: int, seen: Seen) -> Tensor:
        received = seen.stored.attention_to(seen.position).double()
        received = (received + self.near / (1 + seen.distance)) / (1 + self.near)  # in [0, 1]
        attending = seen.rank(torch.where(seen.masked, 1 - received, 3 - received))
        soon = seen.rank(torch.where(seen.masked, seen.ranked_scores, 3 - received))
        others = torch.where(seen.masked, 3 - received, 1 - received)
        known = seen.rank(others.scatter(1, seen.position[:, None], 3.0))
        in_pairs = attending + attending.div(2, rounding_mode="floor")  # 0 1 3 4 6 7 ...
        masked = torch.minimum(in_pairs, 3 * soon + 2)
        return seen.first(torch.where(seen.masked, masked, 2 * known + 4.5), count)
