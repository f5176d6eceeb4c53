"""The revealed column, then the masked positions that attended to it most in the round's full pass.

What a reveal changes, it changes through the attention that its column receives;
near and far dependencies are treated alike. The attention is the mean over layers
and heads. It is computed for one key at a time from stored queries, so no S x S map
is held (``teachers/keyvalues.py``).
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
        return seen.first(torch.where(seen.masked, 1 - received, 3 - received), count)
