"""Verification: drafts held against the teacher, so that the output law is exactly its own.

The k prefixes of a block's draft go through the teacher as one batch. Walking
along them, a drafted token v with draft law q and teacher law p is accepted
with probability min(1, p(v) / q(v)); at the first rejection a token is drawn
from the normalised (p - q)+ and the block ends (Leviathan et al. 2023,
arXiv 2211.17192, theorem 1, here per position of a masked-diffusion model).
All laws are taken after temperature, top-p and suppression.

- ``strict``: the block also ends, before the token, where the teacher's own
  order policy would reveal another position. The law of whole sequences and
  their orders equals that of ``sequential``.
- ``tokens``: the sampler's order is kept. Every token is drawn from the
  teacher's exact conditional given the tokens before it, along another order:
  equal to ``sequential`` only as far as the teacher's conditionals agree on one
  joint law, whatever the order.

A position's uniform numbers are used once: a draft that is dropped was not
looked at by the decision that dropped it, so drawing the position again with
the same numbers biases nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .. import rng
from ..teachers.protocol import Teacher
from .canvas import Canvas
from .orders import OrderPolicy
from .sampling import Sampling, draw, probabilities
from .scoring import order_scores

Verification = Literal["strict", "tokens"]
FULL, ORDER, REJECTION = 0, 1, 2  # how a block ended: columns of Canvas.block_ends


@dataclass
class Draft:
    """The reveals of one block: for each, [B] positions and tokens, [B, V] laws, [B] whether made."""

    base: Tensor  # [B] reveals before the block
    masked: Tensor  # [B, L] bool, what could be revealed at the block's start
    opened: Tensor  # [B] bool, rows that are in the block
    positions: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    laws: list[Tensor] = field(default_factory=list)
    made: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, canvas: Canvas, opened: Tensor) -> Draft:
        return cls(canvas.revealed.clone(), canvas.candidates, opened)

    def add(self, position: Tensor, token: Tensor, law: Tensor, made: Tensor) -> None:
        self.positions.append(position)
        self.tokens.append(token)
        self.laws.append(law)
        self.made.append(made)


def prefix_states(canvas: Canvas, draft: Draft) -> Tensor:
    """[k, B, P + L] ids: state j shows the block's first j + 1 drafted tokens."""
    each = torch.arange(len(canvas.rows), device=canvas.ids.device)
    state, states = canvas.ids.clone(), []
    for j in reversed(range(len(draft.tokens))):
        states.append(state.clone())
        column = canvas.start + draft.positions[j]
        state[each, column] = torch.where(draft.made[j], canvas.mask_id, state[each, column])
    return torch.stack(states[::-1])


def verify(
    teacher: Teacher,
    canvas: Canvas,
    draft: Draft,
    verification: Verification,
    order: OrderPolicy,
    sampling: Sampling,
    seed: int,
    most: int,
) -> tuple[Tensor, Tensor]:
    """Keep the verified part of ``draft`` on the canvas, in place.

    Returns (hidden [B, P + L, H], has [B] bool): the states that open the next
    block where the verification has already computed them, that is except
    after a rejection.
    """
    k, batch = len(draft.tokens), len(canvas.rows)
    each = torch.arange(batch, device=canvas.ids.device)
    # Rows that are done would only cost; one host question per block.
    index = draft.opened.nonzero()[:, 0]
    states = prefix_states(canvas, draft)[:, index]
    mask = canvas.attention_mask
    mask = None if mask is None else mask[index].repeat(k, 1)
    passed = teacher.hidden(states.reshape(k * len(index), -1), mask)
    hidden = passed.new_zeros(k, batch, *passed.shape[1:])
    hidden[:, index] = passed.view(k, len(index), *passed.shape[1:])
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
        if verification == "strict":
            scores = order_scores(
                teacher, canvas.response(hidden[j - 1]), masked, canvas.rows, order, seed, most
            )
            mismatch = alive & (scores.argmin(1) != position)
            mismatched |= mismatch
            alive = alive & ~mismatch
        logits = teacher.logits(hidden[j - 1][each, canvas.start + position])
        p, q = probabilities(logits, sampling), draft.laws[j]
        chance = rng.uniform(seed, canvas.rows, position, rng.ACCEPT)
        accepted = chance * q[each, token].double() < p[each, token].double()
        rejected = alive & ~accepted
        residual = (p - q).clamp_min(0)
        # Without a residual p and q are one law up to rounding: then any draw from p will do.
        law = torch.where(residual.sum(-1, keepdim=True) > 0, residual, p)
        correction = draw(law, rng.uniform(seed, canvas.rows, position, rng.RESIDUAL))
        column = canvas.start + position
        canvas.ids[each, column] = torch.where(rejected, correction, canvas.ids[each, column])
        keep += alive
        rejected_at_all |= rejected
        alive = alive & accepted
        masked[each, position] &= ~alive
    canvas.rollback(draft.base + keep)
    full = draft.opened & ~rejected_at_all & ~mismatched
    canvas.block_ends += torch.stack([full, mismatched, rejected_at_all], dim=1)
    return hidden[(keep - 1).clamp_min(0), each], draft.opened & ~rejected_at_all
