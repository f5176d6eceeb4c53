"""All columns from the open block to the end of the canvas: Fast-dLLM's prefix cache.

The prefix cache of Fast-dLLM (arXiv 2505.22618, section 3.2): decoding goes block by
block; a full pass opens a block, and until the block is finished only the prompt and
the blocks before it keep their keys and values. Every later pass recomputes the block
and all that follows it. The dual cache, which keeps what follows too, is
``columns/block.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..columns import Seen
from ..teachers.keyvalues import Keep


@dataclass(frozen=True)
class Suffix:
    block: int  # positions of a block; ``block_length`` of the decoding must be the same

    name = "suffix"
    keeps: Keep = "keys"

    def choose(self, count: int, seen: Seen) -> Tensor:
        """``count`` plays no part. Waits for the device: the number of columns falls block by block."""
        size = seen.masked.shape[1]
        # Only the open block has candidates, in every row that has any.
        first = int(seen.masked.any(0).int().argmax()) + seen.shift - seen.start
        begin = seen.start + first // self.block * self.block - seen.shift
        column = torch.arange(size, device=seen.masked.device)
        outside = (column < begin).double().expand(len(seen.masked), size)
        return seen.first(outside, size - begin)
