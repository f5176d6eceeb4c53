"""The update: how states follow a reveal without a full pass.

A **round** is one full pass of the teacher and the reveals that follow it. An
:class:`Update` begins a :class:`Round` from the states of the full pass, and the
round advances after each reveal, or after several. Decoding, the KL meters and the training step
drive the same rounds. An update owns everything that it stores (states, keys and
values) and reports at which positions states are new. Which position and token
to reveal is left to ``decoding/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..sampler.estimator import Foresight
from ..teachers.keyvalues import Keep, KeyValues, queried
from ..teachers.protocol import Teacher


@dataclass
class Opening:
    """The result of a full pass over B rows of S positions, from which a round begins."""

    states: Tensor  # [B, S, (1 + F) H], aligned: position i predicts token i
    stored: KeyValues | None  # keys and values of the pass, if the update reads them
    # [B, S] int64, the live canvas: what ``begin`` reads of it, it copies. None in training steps.
    ids: Tensor | None = None

    def select(self, rows: Tensor) -> Opening:
        """A copy of ``rows`` [N] int64."""
        stored = None if self.stored is None else self.stored.select(rows)
        return Opening(self.states[rows], stored, None if self.ids is None else self.ids[rows])


def full_pass(teacher: Teacher, ids: Tensor, attention_mask: Tensor | None, keep: Keep) -> Opening:
    """One pass of the teacher over ids [B, S] that stores what ``keep`` names."""
    if keep == "nothing":
        return Opening(teacher.hidden(ids, attention_mask), None, ids)
    stored = KeyValues(queried=queried(keep, teacher.layers))
    return Opening(teacher.hidden(ids, attention_mask, stored), stored, ids)


@dataclass(frozen=True)
class Reveal:
    """The canvas right after a reveal, or after several that share an update; B rows of S positions."""

    ids: Tensor  # [B, S] int64, with the new token
    position: Tensor  # [B] int64 in 0 .. S - 1, where it is; the last of several
    masked: Tensor | None = None  # [B, S] bool, positions that may be revealed next
    scores: Tensor | None = None  # [B, S] order scores where masked, the lowest is revealed first
    start: int = 0  # positions of the canvas before the responses
    # [B, P] int64, the others revealed since the last update, all of which ``states`` must follow; a
    # row may name one twice, or ``position``.
    others: Tensor | None = None


class Round(Protocol):
    """What an update holds between the full pass and the end of the round."""

    opening: Tensor  # [B, S, (1 + F) H], states of the full pass
    states: Tensor  # [B, S, H or more], states now

    def advance(self, reveal: Reveal) -> Tensor | None:
        """Make ``states`` follow ``reveal``.

        Returns the positions [B, C] int64 whose states are new, C >= 0, or None if
        all may be; S stands for no position.
        """

    def estimate(self, seen: Foresight) -> Tensor:
        """[B] nats of KL(teacher || method) that a reveal now is expected to add."""


@runtime_checkable
class Update(Protocol):
    """Begins rounds. One file per implementation, registered in ``updates/__init__.py``."""

    name: str
    passes: bool  # whether advancing a round computes anything, and so costs an update pass
    keeps: Keep  # what a round reads of the full pass besides its states
    ranks: bool  # whether a round reads Reveal.masked and Reveal.scores
    estimates: bool  # whether a round estimates the KL of the next reveal
    k_max: int | None  # reveals of the longest round that its estimates are meant for

    def reading(self, teacher: Teacher) -> Teacher:
        """The teacher whose states a round reads; UserError where the two do not fit."""

    def begin(self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None) -> Round:
        """A round after a full pass; attention_mask [B, S] bool hides positions, None hides none.

        The round may overwrite ``opening.stored``, never ``opening.states``.
        """


def foresee(
    teacher: Teacher,
    states: Tensor,
    opening: Tensor,
    ids: Tensor,
    position: Tensor,
    last: Tensor,
    depth: Tensor,
    logits: Tensor | None = None,
) -> Foresight:
    """The inputs of an estimate at ``position`` [B], after the update that followed the reveal at ``last`` [B].

    states, opening: [B, H or more] there, now and after the round's full pass; ids:
    [B, S] the canvas; depth: [B] reveals of the round so far; logits: those of states.
    """
    each = torch.arange(len(ids), device=ids.device)
    logits = teacher.logits(states) if logits is None else logits
    revealed = teacher.embed(ids[each, last][:, None])[:, 0]
    return Foresight(states, opening, logits, revealed, position - last, depth)
