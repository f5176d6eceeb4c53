"""Random canvases right after a reveal, for the tests of column policies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

B, S = 40, 14
CASES = pytest.mark.parametrize(("shift", "padded"), [(0, False), (0, True), (1, False), (1, True)])


def case(shift: int, padded: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(position, masked, scores, attention mask) of B canvases of S columns; pads are on the left."""
    draw = torch.Generator().manual_seed(seed)
    real = torch.ones(B, S, dtype=torch.bool)
    if padded:
        real = torch.arange(S) >= torch.randint(0, 5, (B, 1), generator=draw)
    masked = (torch.rand(B, S, generator=draw) < 0.5) & real & (torch.arange(S) > 5)
    position = torch.randint(6, S, (B,), generator=draw)
    masked[torch.arange(B), position] = False
    scores = 10 * torch.randn(B, S, generator=draw)
    return position, masked, scores.masked_fill(~masked, torch.inf), real if padded else None
