"""The columns of the open block: the aligned stretch of the response that holds the revealed position.

The dual cache of Fast-dLLM (arXiv 2505.22618): keys and values before and behind
the open block stay as the full pass left them, and an update recomputes the block,
known tokens included. Here a block has as many positions as an update has columns.
The paper also decodes block by block; ``generate(block_length=...)`` of the same
length does so. Where the response ends inside the block, the nearest columns outside
fill it. Reads no attention and no scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .protocol import Seen


@dataclass(frozen=True)
class Block:
    name = "block"
    keeps = "keys"

    def choose(self, count: int, seen: Seen) -> Tensor:
        column = torch.arange(seen.masked.shape[1], device=seen.masked.device)
        served = column + seen.shift
        begin = seen.position - (seen.position - seen.start) % count
        outside = torch.maximum(begin[:, None] - served, served - begin[:, None] - count + 1)
        return seen.first(outside.clamp_min(0).double(), count)
