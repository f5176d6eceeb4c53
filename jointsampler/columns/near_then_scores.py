"""The revealed column, its masked neighbours, then the positions that the order would reveal next.

Measured on the embedded teacher (96 tokens of code, k = 4): four columns with
``near`` = 2 capture .97 of the dependency, without neighbours .81.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Groups of columns, first to last; inside a group a key in [0, 1) decides.
_REVEALED, _NEAR, _SCORED, _KNOWN, _PADDING = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class NearThenScores:
    count: int  # columns
    near: int  # masked positions up to this distance from the revealed one come first

    def choose(
        self,
        position: Tensor,
        masked: Tensor,
        scores: Tensor,
        shift: int,
        attention_mask: Tensor | None,
    ) -> Tensor:
        size = masked.shape[1]
        column = torch.arange(size, device=masked.device)
        distance = (column + shift - position[:, None]).abs()  # [B, S], of the predicted position
        if shift:  # the last column predicts no position of the canvas
            edge = masked.shape[0], shift
            masked = torch.cat([masked[:, shift:], masked.new_zeros(edge)], dim=1)
            scores = torch.cat([scores[:, shift:], scores.new_zeros(edge)], dim=1)
        closeness = distance.double() / (size + shift)
        # A monotone map of the scores to (0, 1).
        ranked = torch.where(masked, scores, 0.0).double()
        ranked = (1 + ranked / (1 + ranked.abs())) / 2
        key = torch.where(masked, _SCORED + ranked, _KNOWN + closeness)
        key = torch.where(masked & (distance <= self.near), _NEAR + closeness, key)
        if attention_mask is not None:
            key = torch.where(attention_mask, key, float(_PADDING))
        key = torch.where(column == position[:, None], float(_REVEALED), key)
        return key.argsort(dim=1, stable=True)[:, : self.count]
