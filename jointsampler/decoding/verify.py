"""Verification: compare a drafted round with the teacher, so that the output is exactly the teacher's.

The prefixes of a round's draft go through the teacher as one batch. Walking
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

However a round ends, the pass over its last kept prefix is in the batch and opens
the next round, whose first token is the teacher's own: drawn from that pass, or the
correction of a rejection. So after the first opening every pass is a verification.

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


@dataclass(frozen=True)
class Verified:
    """What a verification leaves to the next round of every row that was in it."""

    opening: Opening  # the pass over the prefix that was kept
    corrected: Tensor  # [B] bool, rows whose next token is already drawn:
    position: Tensor  # [B] int64, there
    token: Tensor  # [B] int64, this one


@dataclass
class Draft:
    """The reveals of one round: for each, [B] positions and tokens, [B, V] probabilities, [B] whether made."""

    base: Tensor  # [B] reveals before the round
    masked: Tensor  # [B, L] bool, the positions that could be revealed when the round opened
    opened: Tensor  # [B] bool, rows that are in the round
    before: Verified | None  # the verification of the round before
    positions: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, canvas: Canvas, opened: Tensor, before: Verified | None) -> Draft:
        return cls(canvas.revealed.clone(), canvas.candidates, opened, before)

    def first_position(self, chosen: Tensor) -> Tensor:
        """[B]: where the round begins: at the correction, if there is one, else at ``chosen`` [B]."""
        before = self.before
        return chosen if before is None else torch.where(before.corrected, before.position, chosen)

    def first_token(self, drawn: Tensor) -> Tensor:
        """[B]: the token there: the correction, if there is one, else ``drawn`` [B]."""
        before = self.before
        return drawn if before is None else torch.where(before.corrected, before.token, drawn)

    def add(self, position: Tensor, token: Tensor, probs: Tensor, made: Tensor) -> None:
        self.positions.append(position)
        self.tokens.append(token)
        self.probs.append(probs)
        self.made.append(made)


@dataclass(frozen=True)
class Prefixes:
    """The pass over every prefix that was drafted, rows that left the round early having fewer."""

    opening: Opening  # of N prefixes
    index: Tensor  # [k, B] int64 in 0 .. N - 1: of the first j + 1 tokens of row b; 0 if not made

    @classmethod
    def passed(cls, scorer: Scorer, draft: Draft, keep: Keep) -> Prefixes:
        """Run the teacher on them as one batch."""
        canvas, made = scorer.canvas, torch.stack(draft.made)
        at = made.nonzero()  # rows that are finished would only cost; one host question per round
        mask = canvas.attention_mask
        mask = None if mask is None else mask[at[:, 1]]
        ids = prefix_states(canvas, draft)[at[:, 0], at[:, 1]]
        opening = full_pass(scorer.teacher, ids, mask, keep)
        index = torch.zeros_like(made, dtype=torch.long)
        index[at[:, 0], at[:, 1]] = torch.arange(len(at), device=made.device)
        canvas.teacher_passes += draft.opened
        canvas.teacher_rows += made.sum(0)
        return cls(opening, index)

    def states(self, prefix: int) -> Tensor:
        """[B, P + L, H] after the first ``prefix`` + 1 tokens; of any prefix where that is not made."""
        return self.opening.states[self.index[prefix]]


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
) -> Verified:
    """Take the part of ``draft`` that the teacher does not confirm off the scorer's canvas, in place.

    ``most`` bounds a row's masked positions; ``keep``: what openings store besides
    their states.
    """
    canvas = scorer.canvas
    prefixes = Prefixes.passed(scorer, draft, keep)
    walk = Walk.begin(draft)
    for j in range(1, len(draft.tokens)):
        walk.step(scorer, draft, prefixes.states(j - 1), j, verification, sampling, most)
    canvas.rollback(draft.base + walk.kept)
    full = draft.opened & ~walk.mismatched & ~walk.rejected
    canvas.round_ends += torch.stack([full, walk.mismatched, walk.rejected], dim=1)
    last = (walk.kept - 1).clamp_min(0)[None]  # the prefix that each row kept
    opening = prefixes.opening.select(prefixes.index.gather(0, last)[0])
    return Verified(opening, walk.rejected, walk.position, walk.token)


@dataclass
class Walk:
    """How far along the draft each row has come; all [B]."""

    alive: Tensor  # bool, every token so far is confirmed
    kept: Tensor  # int64, confirmed tokens
    masked: Tensor  # [B, L] bool, what could be revealed after them
    mismatched: Tensor  # bool, ended by the order
    rejected: Tensor  # bool, ended by a rejection, and then:
    position: Tensor  # int64, where
    token: Tensor  # int64, the correction

    @classmethod
    def begin(cls, draft: Draft) -> Walk:
        """After the first token, which came from the teacher itself."""
        opened, first = draft.opened, draft.positions[0]
        masked = draft.masked.scatter(1, first[:, None], False)
        no = torch.zeros_like(opened)
        return cls(opened, opened.long(), masked, no, no, first, draft.tokens[0])

    def step(
        self,
        scorer: Scorer,
        draft: Draft,
        states: Tensor,
        j: int,
        verification: Verification,
        sampling: Sampling,
        most: int,
    ) -> None:
        """Judge the ``j``-th token by the teacher's ``states`` [B, P + L, H] before it."""
        canvas, position, token = scorer.canvas, draft.positions[j], draft.tokens[j]
        alive = self.alive & draft.made[j]
        if verification == "strict":
            scores = scorer.masked(canvas.response(states), self.masked, most)
            mismatch = alive & (scores.argmin(1) != position)
            self.mismatched = self.mismatched | mismatch
            alive = alive & ~mismatch
        each = torch.arange(len(states), device=states.device)
        p = probabilities(scorer.teacher.logits(states[each, canvas.start + position]), sampling)
        accepted, correction = _judge(scorer, p, draft.probs[j], position, token)
        rejected = alive & ~accepted
        self.rejected = self.rejected | rejected
        self.position = torch.where(rejected, position, self.position)
        self.token = torch.where(rejected, correction, self.token)
        self.alive = alive & accepted
        self.kept = self.kept + self.alive
        self.masked = self.masked & ~torch.zeros_like(self.masked).scatter(
            1, position[:, None], self.alive[:, None]
        )


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
