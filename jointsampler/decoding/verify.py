"""Verification: compare a drafted round with the teacher, so that the output is exactly the teacher's.

The prefixes of a round's draft go through the teacher as one batch. They are
judged together: block verification (Sun et al. 2024, arXiv 2403.10444) keeps more
of a draft than a test of one token after the other (Leviathan et al. 2023,
2211.17192), at the same cost. With draft probabilities q_j and teacher
probabilities p_j along a draft v_1, v_2, ..., where v_1 is the teacher's own and
c_1 = 1:

- c_j = min(1, c_{j-1} p_j(v_j) / q_j(v_j)) is the probability that at least j tokens
  are kept, given them.
- r_j = sum over x of (c_j p_{j+1}(x) - q_{j+1}(x))+ is the probability that exactly j
  tokens are kept and the next is drawn anew, from that residual, normalised.
- So the longest prefix is kept that passes its test: r_j / (r_j + 1 - c_j) where the
  draft goes on, c_j where it ends. Where it ends may depend on the tokens before.

All probabilities are those after temperature, top-p and suppression.

- ``strict``: a draft also ends, before the token, where the teacher's own order
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

Whether a token is kept depends on those drafted after it, so a position that is
drafted again must not meet the same random numbers: each round has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import rng
from ..teachers.keyvalues import Keep
from ..updates import Opening, full_pass
from .cache import of_rows
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

    def select(self, rows: Tensor) -> Verified:
        """That of ``rows`` [N] int64."""
        return Verified(
            self.opening.select(rows), self.corrected[rows], self.position[rows], self.token[rows]
        )


@dataclass
class Draft:
    """The reveals of one round: for each, [B] positions and tokens, [B, V] probabilities, [B] whether made."""

    base: Tensor  # [B] reveals before the round
    masked: Tensor  # [B, L] bool, the positions that could be revealed when the round opened
    opened: Tensor  # [B] bool, rows that are in the round
    round: Tensor  # [B] int64, its number, a key of its random numbers
    before: Verified | None  # the verification of the round before
    positions: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    probs: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, canvas: Canvas, opened: Tensor, before: Verified | None) -> Draft:
        number = canvas.teacher_passes.clone()
        return cls(canvas.revealed.clone(), canvas.candidates, opened, number, before)

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
        opening = full_pass(of_rows(scorer.teacher, at[:, 1]), ids, mask, keep)
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
    walk = Walk(scorer, draft, verification, sampling, most)
    for j in range(1, len(draft.tokens)):
        walk.step(j, prefixes.states(j - 1))
    walk.stop(len(draft.tokens), walk.going, FULL)
    canvas.rollback(draft.base + walk.kept)
    canvas.round_ends += F.one_hot(walk.ended, 3) * draft.opened[:, None]
    last = (walk.kept - 1).clamp_min(0)[None]  # the prefix that each row kept
    opening = prefixes.opening.select(prefixes.index.gather(0, last)[0])
    corrected = draft.opened & (walk.ended == REJECTION)
    return Verified(opening, corrected, walk.position, walk.token)


class Walk:
    """The tests of a draft's prefixes from the shortest on; the longest that passes is kept. All [B]."""

    def __init__(
        self,
        scorer: Scorer,
        draft: Draft,
        verification: Verification,
        sampling: Sampling,
        most: int,
    ):
        self._scorer, self._draft, self._most = scorer, draft, most
        self._strict, self._sampling = verification == "strict", sampling
        self._masked = draft.masked
        self.going = draft.opened  # bool, the draft goes on
        self.chance = torch.ones_like(self.going, dtype=torch.float64)  # c above
        self.kept = draft.opened.long()  # tokens; the first came from the teacher itself
        self.ended = torch.full_like(self.kept, FULL)  # how a round that keeps them ends
        self.position, self.token = draft.positions[0], draft.tokens[0]  # of its correction

    def step(self, j: int, states: Tensor) -> None:
        """Test the first ``j`` tokens by the teacher's states [B, P + L, H] after them."""
        scorer, draft = self._scorer, self._draft
        canvas, position = scorer.canvas, draft.positions[j]
        self.stop(j, self.going & ~draft.made[j], FULL)
        each = torch.arange(len(states), device=states.device)
        if self._strict:
            self._masked = self._masked.scatter(1, draft.positions[j - 1][:, None], False)
            _, teachers = scorer.masked(canvas.response(states), self._masked, self._most)
            self.stop(j, self.going & (teachers.position != position), ORDER)
            logits = teachers.logits  # where the draft goes on, those at its position
        else:
            logits = scorer.teacher.logits(states[each, canvas.start + position])
        p, q = probabilities(logits, self._sampling).double(), draft.probs[j].double()
        residual = (self.chance[:, None] * p - q).clamp_min(0)
        mass = residual.sum(-1)
        passes = self._passes(j, mass / (mass + 1 - self.chance).clamp_min(1e-300))
        passes = passes & self.going
        self._keep(j, passes, REJECTION)
        self.position = torch.where(passes, position, self.position)
        correction = draw(residual, self._uniform(position, rng.RESIDUAL))
        self.token = torch.where(passes, correction, self.token)
        drafted, taught = (x.gather(1, draft.tokens[j][:, None])[:, 0] for x in (q, p))
        # Where the draft has ended, its token may have q = 0.
        ratio = torch.where(self.going, taught / drafted, 0.0)
        self.chance = (self.chance * ratio).clamp_max(1)

    def stop(self, j: int, rows: Tensor, how: int) -> None:
        """In ``rows`` [B] the draft ends after ``j`` tokens: test them."""
        self._keep(j, rows & self._passes(j, self.chance), how)
        self.going = self.going & ~rows

    def _passes(self, j: int, probability: Tensor) -> Tensor:
        # A row has one test for each j: where its draft goes on, or where it ends.
        return self._uniform(self._draft.positions[j - 1], rng.ACCEPT) < probability

    def _keep(self, j: int, passes: Tensor, how: int) -> None:
        self.kept = torch.where(passes, j, self.kept)
        self.ended = torch.where(passes, how, self.ended)

    def _uniform(self, position: Tensor, stream: int) -> Tensor:
        scorer = self._scorer
        return rng.uniform(scorer.seed, scorer.canvas.rows, position, stream, self._draft.round)
