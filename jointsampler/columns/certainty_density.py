"""The revealed column, then the masked positions that are certain and lie among known tokens.

The certainty density of d2Cache (arXiv 2509.23094): the certainty of a masked
position times the share of known tokens around it, weighed by a Gaussian of its
distance. Here the certainty is a falling function of the order's score, in the
paper the likeliest token's probability. The paper's second part, columns of known
tokens by attention rollout, is in ``rollout.py``. Reads no attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .protocol import Seen


@dataclass(frozen=True)
class CertaintyDensity:
    sigma: float = 10.0  # positions; the paper's

    name = "density"
    keeps = "keys"

    def choose(self, count: int, seen: Seen) -> Tensor:
        return seen.first(self.key(seen), count)

    def key(self, seen: Seen) -> Tensor:
        """[B, S] float64, the lowest is recomputed first: masked positions in [-1, 1], others above 2."""
        column = torch.arange(seen.masked.shape[1], device=seen.masked.device)
        kernel = torch.exp(-((column[:, None] - column) ** 2) / (2 * self.sigma**2)).double()
        # Outside of the canvas all is known, as the paper has it to the left.
        density = 1 - seen.masked.double() @ kernel / (self.sigma * math.sqrt(2 * math.pi))
        certainty = 2 * (1 - seen.ranked_scores)
        return torch.where(seen.masked, 1 - certainty * density, 3 - density)
