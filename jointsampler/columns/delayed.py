"""The revealed column, the one revealed before it, then the columns around the revealed one.

The greedy variant of dKV-Cache (arXiv 2505.15781): an update recomputes the token of
this step, the token of the step before and a local window, whatever the window
holds. Keys and values change most when a position gets its token, so they are
cached one step late. Reads no attention and no scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .protocol import Seen


@dataclass(frozen=True)
class Delayed:
    name = "delayed"
    keeps = "keys"

    def choose(self, count: int, seen: Seen) -> Tensor:
        key = seen.distance.double()
        if seen.previous is not None:
            key = key.scatter(1, seen.previous[:, None], -1.0)
        return seen.first(key, count)
