"""Scoring: an order policy over the masked positions, with the LM head only where it is needed.

A :class:`Scoreboard` keeps the scores of a round: all masked positions are scored
when the round opens, and later only the positions whose states are new, together with
the best of the others. So the logits of the position that is revealed next are
always among those just computed, and the LM head runs once per reveal (twice where an
update was put off until then: ``step.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..teachers.protocol import Teacher
from .canvas import Canvas
from .orders import OrderPolicy, OrderView

# Logits held at once while scoring: 64 Mi floats, 256 MiB.
_SCORE_FLOATS = 1 << 26


@dataclass(frozen=True)
class Scored:
    """Scores of C positions in B rows, and the position with the lowest; ties go to the leftmost."""

    values: Tensor  # [B, C], inf where not live
    lowest: Tensor  # [B]
    position: Tensor  # [B] int64
    logits: Tensor  # [B, V] float32 at ``position``, untempered


class Scorer:
    """Scores of positions of one canvas under one order policy."""

    def __init__(self, teacher: Teacher, canvas: Canvas, order: OrderPolicy, seed: int):
        self.teacher, self.canvas, self.order, self.seed = teacher, canvas, order, seed
        self._each = torch.arange(len(canvas.rows), device=canvas.ids.device)

    def masked(self, response: Tensor, masked: Tensor, most: int) -> tuple[Tensor, Scored]:
        """(scores [B, L], inf where ``masked`` [B, L] is False; the same as a :class:`Scored`).

        response: [B, L, H or more] states; ``most`` bounds a row's masked
        positions. Each row's masked positions are gathered to the front, so the LM
        head reads ``most`` positions a row.
        """
        positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        found = self.at(response, positions, masked.gather(1, positions))
        values = found.values
        scores = torch.full(masked.shape, torch.inf, dtype=values.dtype, device=values.device)
        return scores.scatter(1, positions, values), found

    def at(self, response: Tensor, positions: Tensor, live: Tensor) -> Scored:
        """``positions`` [B, C] int64 where ``live`` [B, C] bool, from states response [B, L, H or more]."""
        step = positions.shape[1]
        if self.order.needs_logits:
            step = max(1, _SCORE_FLOATS // (len(positions) * self.teacher.vocab_size))
        parts = [
            self._part(response, *part)
            for part in zip(positions.split(step, dim=1), live.split(step, dim=1), strict=True)
        ]
        best = parts[0]
        for part in parts[1:]:
            best = _lower(best, part)
        values = torch.cat([part.values for part in parts], dim=1)
        return Scored(values, best.lowest, best.position, best.logits)

    def _part(self, response: Tensor, positions: Tensor, live: Tensor) -> Scored:
        """:meth:`at` with all logits held at once."""
        each, (batch, count) = self._each, positions.shape
        rows = self.canvas.rows[:, None].expand(batch, count).reshape(-1)
        logits = states = None
        if self.order.needs_logits:
            index = positions[..., None].expand(-1, -1, response.shape[-1])
            states = response.gather(1, index)
            logits = self.teacher.logits(states)  # [B, C, V]
            states = states.flatten(0, 1)
        flat = None if logits is None else logits.flatten(0, 1)
        view = OrderView(flat, positions.reshape(-1), rows, self.seed, states)
        values = self.order.score(view)
        # What a diverged sampler scores with no number is revealed last, and every position once.
        values = values.view(batch, count).nan_to_num(torch.finfo(values.dtype).max, torch.inf)
        values = values.masked_fill(~live, torch.inf)
        lowest = values.amin(dim=1)
        tied = torch.where(values == lowest[:, None], positions, response.shape[1])
        position = tied.amin(dim=1)
        if logits is None:
            return Scored(values, lowest, position, self.teacher.logits(response[each, position]))
        where = (positions == position[:, None]).int().argmax(dim=1)
        return Scored(values, lowest, position, logits[each, where])


def _lower(one: Scored, other: Scored) -> Scored:
    """Of each row the one with the lower score; the values are those of ``one``."""
    tied = (other.lowest == one.lowest) & (other.position < one.position)
    better = (other.lowest < one.lowest) | tied
    return Scored(
        one.values,
        torch.where(better, other.lowest, one.lowest),
        torch.where(better, other.position, one.position),
        torch.where(better[:, None], other.logits, one.logits),
    )


class Scoreboard:
    """The scores of one round, and the position that the order reveals next."""

    def __init__(self, scorer: Scorer, states: Tensor, most: int):
        self.scorer, self.canvas = scorer, scorer.canvas
        self.scores, self.best = self._all(
            states, most
        )  # [B, L], inf where nothing may be revealed

    def _all(self, states: Tensor, most: int) -> tuple[Tensor, Scored]:
        return self.scorer.masked(self.canvas.response(states), self.canvas.candidates, most)

    def moved(self, states: Tensor, positions: Tensor | None, most: int) -> None:
        """Score again where states are new: canvas positions [B, C], S for none; None is everywhere."""
        if positions is None:
            self.scores, self.best = self._all(states, most)
            return
        length = self.canvas.length
        places = positions - self.canvas.start
        inside = (places >= 0) & (places < length)
        # Places outside the response go to a slot behind it.
        slots = torch.where(inside, places, length)
        stale = F.pad(self.scores, (0, 1)).scatter(1, slots, torch.inf)[:, :length]
        # The best of the others: with it, the position revealed next is among those scored now.
        places = torch.cat([places.clamp(0, length - 1), stale.argmin(1, keepdim=True)], dim=1)
        live = self.canvas.candidates.gather(1, places)
        self.best = self.scorer.at(self.canvas.response(states), places, live)
        self.scores = stale.scatter(1, places, self.best.values)

    def revealed(self) -> None:
        """Drop the positions that are no longer candidates."""
        self.scores = self.scores.masked_fill(~self.canvas.candidates, torch.inf)

    def on_canvas(self) -> Tensor:
        """[B, P + L]: the scores in canvas positions."""
        return F.pad(self.scores, (self.canvas.start, 0), value=torch.inf)
