"""Readout: from the states that a pass left to scores of positions and logits at one.

Both readouts answer with one signature. ``Head`` runs the teacher's LM head
wherever it is asked. ``LowRank`` has run it as a block opened, kept the candidates'
logits, and adds what a sampler of low rank has moved since: rank x V operations a
position where the head takes H x V. Which positions are asked about is the decoding loop's
business.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..sampler.model import JointSampler, at_columns
from ..teachers.protocol import Teacher
from ..window import Window
from .canvas import Canvas
from .orders import OrderPolicy, OrderView
from .scoring import order_scores, row_chunks


class Readout(Protocol):
    def scores(self, hidden: Tensor, masked: Tensor, most: int) -> Tensor:
        """Scores [B, L] of response positions, inf where ``masked`` [B, L] is False.

        hidden: [B, P + L, H or more]; ``most`` bounds a row's masked positions.
        """

    def logits(self, hidden: Tensor, position: Tensor) -> Tensor:
        """[B, V] float32 at response positions ``position`` [B]."""


class Head:
    """The teacher's own."""

    def __init__(self, teacher: Teacher, canvas: Canvas, order: OrderPolicy, seed: int):
        self.teacher, self.canvas, self.order, self.seed = teacher, canvas, order, seed

    def scores(self, hidden: Tensor, masked: Tensor, most: int) -> Tensor:
        response, rows = self.canvas.response(hidden), self.canvas.rows
        return order_scores(self.teacher, response, masked, rows, self.order, self.seed, most)

    def logits(self, hidden: Tensor, position: Tensor) -> Tensor:
        each = torch.arange(len(position), device=position.device)
        return self.teacher.logits(hidden[each, self.canvas.start + position])


class LowRank:
    """What the head said of a block's candidates as it opened, and the sampler's correction.

    It holds [B, c, V] float32 and knows of no position outside the window.
    """

    def __init__(self, head: Head, sampler: JointSampler, opening: Tensor, window: Window):
        self.head, self.columns, self.rank = head, window.columns, sampler.config.rank
        self.width = opening.shape[-1]
        self.opened = head.teacher.logits(at_columns(opening, self.columns))
        self.directions = sampler.directions(head.teacher)

    def _moved(self, hidden: Tensor) -> Tensor | None:
        """How far the sampler has gone in each direction, [B, c, rank]; None before its first pass."""
        if hidden.shape[-1] == self.width:
            return None
        return at_columns(hidden, self.columns)[..., -self.rank :].float()

    def scores(self, hidden: Tensor, masked: Tensor, most: int) -> Tensor:
        canvas, order = self.head.canvas, self.head.order
        places, moved, values = self.columns - canvas.start, self._moved(hidden), []
        for part in row_chunks(self.opened.shape):
            logits = None
            if order.needs_logits:
                logits = self.opened[part]
                if moved is not None:
                    logits = logits + moved[part] @ self.directions
                logits = logits.flatten(0, 1)
            rows = canvas.rows[part, None].expand_as(places[part])
            view = OrderView(logits, places[part].flatten(), rows.flatten(), self.head.seed)
            values.append(order.score(view).view_as(places[part]))
        value = torch.cat(values)
        scores = value.new_full(masked.shape, torch.inf).scatter(1, places, value)
        return scores.masked_fill(~masked, torch.inf)

    def logits(self, hidden: Tensor, position: Tensor) -> Tensor:
        each = torch.arange(len(position), device=position.device)
        place = (self.columns == (self.head.canvas.start + position)[:, None]).int().argmax(dim=1)
        logits, moved = self.opened[each, place], self._moved(hidden)
        return logits if moved is None else logits + moved[each, place] @ self.directions


def opened(
    head: Head, sampler: JointSampler | None, opening: Tensor, window: Window | None
) -> Readout:
    """The readout of a block that ``opening`` and ``window`` began."""
    if window is None or sampler is None or not sampler.config.rank:
        return head
    return LowRank(head, sampler, opening, window)
