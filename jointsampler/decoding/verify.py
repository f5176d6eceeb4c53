"""Verification: compare a drafted round with the teacher, so that the output is exactly the teacher's.

The k prefixes of a round's draft go through the teacher as one batch. Walking
along them, a drafted token v with draft probability q(v) and teacher probability
p(v) is accepted with probability min(1, p(v) / q(v)). At the first rejection a
token is drawn from the normalised (p - q)+ and the round ends (Leviathan et al.
2023, arXiv 2211.17192, theorem 1, here per position of a masked-diffusion model).
All probabilities are those after temperature, top-p and suppression.

- ``strict``: the round also ends, before the token, where the teacher's own order
  policy would reveal another position. Whole sequences and their orders have the
  same distribution as those of ``sequential``.
- ``tokens``: the draft's order is kept. Every token has the teacher's exact
  conditional given the tokens before it, but the order is another. Sequences have
  the distribution of ``sequential`` only for a teacher whose conditionals agree
  on one joint, at temperature 1 and top-p 1: tempered conditionals of a
  consistent joint are not consistent.

Each position's uniform numbers decide once. The decision that drops a draft does
not read the numbers of the dropped position, so drawing that position again with
the same numbers adds no bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .. import rng
from ..teachers.keyvalues import Keep
from ..updates import Opening, full_pass
from .canvas import Canvas
from .sampling import Sampling, draw, probabilities
from .scoring import Scorer

Verification = Literal["strict", "tokens"]
FULL, ORDER, REJECTION = 0, 1, 2  # how a round ended: columns of Canvas.round_ends


@dataclass
class Draft:
    """The reveals of one round: for each, [B] positions and tokens, [B, V] probabilities, [B] whether made."""

    base: Tensor  # [B] reveals before the round
    masked: Tensor  # [B, L] bool, the positions that could be revealed when the round opened
    opened: Tensor  # [B] bool, rows that are in the round
    positions: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, canvas: Canvas, opened: Tensor) -> Draft:
        return cls(canvas.revealed.clone(), canvas.candidates, opened)

    def add(self, position: Tensor, token: Tensor, probs: Tensor, made: Tensor) -> None:
        self.positions.append(position)
        self.tokens.append(token)
        self.probs.append(probs)
        self.made.append(made)


def prefix_states(canvas: Canvas, draft: Draft) -> Tensor:
    """[k, B, P + L] ids: state j shows the round's first j + 1 drafted tokens."""
    each = torch.arange(len(canvas.rows), device=canvas.ids.device)
    state, states = canvas.ids.clone(), []
    for j in reversed(range(len(draft.tokens))):
        states.append(state.clone())
        column = canvas.start + draft.positions[j]
        state[each, column] = torch.where(draft.made[j], canvas.mask_id, state[each, column])
    return torch.stack(states[::-1])


def verify(
    scorer: Scorer,
    draft: Draft,
    verification: Verification,
    sampling: Sampling,
    most: int,
    keep: Keep,
) -> tuple[Opening, Tensor]:
    """Keep the verified part of ``draft`` on the scorer's canvas, in place.

    Returns (opening, has [B] bool): the openings of the next round that the
    verification has already computed, in all rows but those with a rejection.
    ``keep``: what openings store besides their states.
    """
    teacher, canvas = scorer.teacher, scorer.canvas
    k, batch = len(draft.tokens), len(canvas.rows)
    each = torch.arange(batch, device=canvas.ids.device)
    # Finished rows would only cost; one host question per round.
    index = draft.opened.nonzero()[:, 0]
    slot = torch.zeros_like(each).index_put((index,), torch.arange(len(index), device=each.device))
    ids = prefix_states(canvas, draft)[:, index].reshape(k * len(index), -1)
    mask = canvas.attention_mask
    mask = None if mask is None else mask[index].repeat(k, 1)
    passed = full_pass(teacher, ids, mask, keep)
    hidden = passed.states.view(k, len(index), *passed.states.shape[1:])
    canvas.teacher_passes += draft.opened
    canvas.teacher_rows += torch.stack(draft.made).sum(0)

    keep = draft.opened.long()  # the first token came from the teacher itself
    alive, rejected_at_all = draft.opened, torch.zeros_like(draft.opened)
    mismatched = torch.zeros_like(draft.opened)
    masked = draft.masked.clone()
    masked[each, draft.positions[0]] &= ~draft.made[0]
    for j in range(1, k):
        alive = alive & draft.made[j]
        position, token = draft.positions[j], draft.tokens[j]
        states = hidden[j - 1][slot]  # [B, P + L, H]
        if verification == "strict":
            _, teachers = scorer.masked(canvas.response(states), masked, most)
            mismatch = alive & (teachers.position != position)
            mismatched |= mismatch
            alive = alive & ~mismatch
        logits = teacher.logits(states[each, canvas.start + position])
        p, q = probabilities(logits, sampling), draft.probs[j]
        accepted, correction = _judge(scorer, p, q, position, token)
        rejected = alive & ~accepted
        column = canvas.start + position
        canvas.ids[each, column] = torch.where(rejected, correction, canvas.ids[each, column])
        keep += alive
        rejected_at_all |= rejected
        alive = alive & accepted
        masked[each, position] &= ~alive
    canvas.rollback(draft.base + keep)
    full = draft.opened & ~rejected_at_all & ~mismatched
    canvas.round_ends += torch.stack([full, mismatched, rejected_at_all], dim=1)
    kept = (keep - 1).clamp_min(0) * len(index) + slot  # the prefix that each row kept
    return passed.select(kept), draft.opened & ~rejected_at_all


def _judge(
    scorer: Scorer, p: Tensor, q: Tensor, position: Tensor, token: Tensor
) -> tuple[Tensor, Tensor]:
    """(whether the drafted token [B] is accepted, the token that replaces it if not)."""
    rows, seed = scorer.canvas.rows, scorer.seed
    chance = rng.uniform(seed, rows, position, rng.ACCEPT)
    drafted, taught = (x.gather(1, token[:, None])[:, 0].double() for x in (q, p))
    residual = (p - q).clamp_min(0)
    # Without a residual p and q are equal up to rounding: any draw from p is right.
    probs = torch.where(residual.sum(-1, keepdim=True) > 0, residual, p)
    correction = draw(probs, rng.uniform(seed, rows, position, rng.RESIDUAL))
    return chance * drafted < taught, correction
