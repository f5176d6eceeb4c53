"""The candidate window: where a sampler looks when it need not look everywhere.

A sampler with ``config.window`` = c computes new states at c positions alone,
those most likely to be revealed next as the block opens. Keys and values come
from all positions, once a block, with its first pass; inside the window, which is
where reveals happen, they are computed again at every pass. The matrices of a
later pass then meet c positions however long the sequence is; only attention
still reads all of them. Which positions these are is chosen here: by the order
policy where it decides, by the recorded order where the sampler is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Window:
    """The candidates of B rows in one block, and what the first pass keeps for the others."""

    columns: Tensor  # [B, c] int64, of the canvas
    keys: Tensor | None = None  # [B, heads, S, head_dim], at all positions, as the block opened
    values: Tensor | None = None  # likewise

    @classmethod
    def first(cls, scores: Tensor, count: int, start: int) -> Window:
        """The ``count`` response positions of lowest score [B, L]; ``start``: the response's first column."""
        chosen = scores.argsort(dim=1, stable=True)[:, :count]
        return cls(start + chosen)

    def inside(self, start: int, length: int) -> Tensor:
        """[B, L] bool: the response positions in it."""
        blank = torch.zeros(len(self.columns), length, dtype=torch.bool, device=self.columns.device)
        return blank.scatter(1, self.columns - start, True)


def recorded_window(rank: Tensor, t: Tensor, count: int, start: int) -> Window:
    """The positions that a trajectory reveals next from x_t: rank [B, L], t [B]."""
    ahead = rank - t[:, None]
    return Window.first(torch.where(ahead >= 0, ahead, rank.shape[1]), count, start)
