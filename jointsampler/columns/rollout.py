"""Masked positions by certainty density and, at every fourth place, known tokens by attention rollout.

Both parts of d2Cache (arXiv 2509.23094). The first is ``certainty_density.py``. The
second ranks tokens by how much of them reaches the last layer through attention:
layer by layer, half of a state comes from itself and half from where it attends
(attention rollout, arXiv 2005.00928). The paper follows all layers and takes known
tokens up to a share of the rollout; here it follows the lower layers, whose queries
are stored, and the number of columns is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .certainty_density import CertaintyDensity
from .protocol import Seen


@dataclass(frozen=True)
class DensityAndRollout:
    density: CertaintyDensity = field(default_factory=CertaintyDensity)
    every: int = 4  # one place of so many goes to a known token

    name = "rollout"
    keeps = "queries"

    def choose(self, count: int, seen: Seen) -> Tensor:
        influence = seen.stored.rollout(seen.attention_mask).double()
        influence = influence / (1 + influence)
        masked = seen.rank(self.density.key(seen))
        known = seen.rank(torch.where(seen.masked, 3 - influence, 1 - influence))
        before = masked + masked.div(self.every - 1, rounding_mode="floor")
        return seen.first(torch.where(seen.masked, before, self.every * (known + 1) - 1), count)
