"""Scoring: an order policy over the masked positions, with the LM head only where it is needed.

A :class:`Scoreboard` keeps the scores of a round: all masked positions are scored
when the round opens, and later only the positions whose states are new.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..teachers.protocol import Teacher
from .canvas import Canvas
from .orders import OrderPolicy, OrderView

# Logits held at once while scoring: 64 Mi floats, 256 MiB.
_SCORE_FLOATS = 1 << 26


class Scorer:
    """Scores of positions of one canvas under one order policy."""

    def __init__(self, teacher: Teacher, canvas: Canvas, order: OrderPolicy, seed: int):
        self.teacher, self.canvas, self.order, self.seed = teacher, canvas, order, seed

    def masked(self, response: Tensor, masked: Tensor, most: int) -> Tensor:
        """Scores [B, L], inf where ``masked`` [B, L] is False.

        response: [B, L, H or more] states; ``most`` bounds a row's masked
        positions. Each row's masked positions are gathered to the front, so the LM
        head reads ``most`` positions a row.
        """
        positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        values = self.at(response, positions)
        scores = torch.full(masked.shape, torch.inf, dtype=values.dtype, device=values.device)
        return scores.scatter(1, positions, values).masked_fill(~masked, torch.inf)

    def at(self, response: Tensor, positions: Tensor) -> Tensor:
        """Scores [B, C] of ``positions`` [B, C] from the states response [B, L, H or more]."""
        batch, count = positions.shape
        rows = self.canvas.rows[:, None].expand(batch, count).reshape(-1)
        flat = positions.reshape(-1)
        if not self.order.needs_logits:
            view = OrderView(None, flat, rows, self.seed)
            return self.order.score(view).view(batch, count)
        states = response.gather(1, positions[..., None].expand(-1, -1, response.shape[-1]))
        step = max(1, _SCORE_FLOATS // self.teacher.vocab_size)
        pieces = zip(
            states.flatten(0, 1).split(step), flat.split(step), rows.split(step), strict=True
        )
        values = [
            self.order.score(OrderView(self.teacher.logits(h), p, r, self.seed))
            for h, p, r in pieces
        ]
        return torch.cat(values).view(batch, count)


class Scoreboard:
    """The scores of one round, [B, L], inf where nothing may be revealed."""

    def __init__(self, scorer: Scorer, states: Tensor, most: int):
        self.scorer, self.canvas = scorer, scorer.canvas
        self.scores = self._all(states, most)

    def _all(self, states: Tensor, most: int) -> Tensor:
        return self.scorer.masked(self.canvas.response(states), self.canvas.candidates, most)

    def moved(self, states: Tensor, positions: Tensor | None, most: int) -> None:
        """Score again where states are new: canvas positions [B, C], S for none; None is everywhere."""
        if positions is None:
            self.scores = self._all(states, most)
            return
        if positions.shape[1] == 0:
            return
        length = self.canvas.length
        places = positions - self.canvas.start
        inside = (places >= 0) & (places < length)
        values = self.scorer.at(self.canvas.response(states), places.clamp(0, length - 1))
        # Places outside the response go to a slot behind it.
        slots = torch.where(inside, places, length)
        scores = F.pad(self.scores, (0, 1)).scatter(1, slots, values)[:, :length]
        self.scores = scores.masked_fill(~self.canvas.candidates, torch.inf)

    def revealed(self) -> None:
        """Drop the positions that are no longer candidates."""
        self.scores = self.scores.masked_fill(~self.canvas.candidates, torch.inf)

    def on_canvas(self) -> Tensor:
        """[B, P + L]: the scores in canvas positions."""
        return F.pad(self.scores, (self.canvas.start, 0), value=torch.inf)
