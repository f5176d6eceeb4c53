"""Exact joints by enumeration: what a strategy writes into a few masked positions.

Every word of the support is decoded with its tokens as a script, and the decoder's
own loop gives the probability of each token at its reveal. The product over a
word's path is the word's exact probability under that strategy: order, stop rule,
update, temperature and top-p included. One token per full pass gives the teacher's
joint by the chain rule. Many positions are left to ``kl.py``, which samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..decoding.canvas import Canvas
from ..decoding.loop import Decoder
from ..decoding.sampling import probabilities
from ..decoding.stops import FixedK
from ..decoding.strategy import Choice, Script, Strategy
from ..errors import UserError
from ..teachers.protocol import Teacher
from ..updates import NoUpdate

MOST_WORDS = 65_536  # of one enumeration
_ROUNDING = 1e-9  # a mass below it is none


@dataclass(frozen=True)
class ExactJoint:
    """A distribution over all words of a support; a word holds the tokens of the masked positions.

    The support may be a part of the vocabulary: what lies outside is known as one mass.
    """

    words: np.ndarray  # [N, m] int64
    log_probs: np.ndarray  # [N] float64, -inf where a word cannot be drawn

    @property
    def probs(self) -> np.ndarray:
        return np.exp(self.log_probs)

    @property
    def outside(self) -> float:
        """The mass of all words with a token outside the support."""
        rest = 1.0 - float(self.probs.sum())
        return rest if rest > _ROUNDING else 0.0

    def mass(self, inside: Sequence[bool] | np.ndarray) -> float:
        """The probability of the words where ``inside`` [N] is True, for example the valid ones."""
        return float(self.probs[np.asarray(inside, dtype=bool)].sum())

    def kl(self, other: ExactJoint) -> float:
        """KL(self || other) in nats, all that lies outside the support counted as one outcome.

        Exact where ``outside`` is 0, else a lower bound. inf where the other cannot
        draw what this can.
        """
        p, q = self._with_outside(), other._with_outside()
        held = p > 0
        with np.errstate(divide="ignore"):
            return float((p[held] * (np.log(p[held]) - np.log(q[held]))).sum())

    def total_variation(self, other: ExactJoint) -> float:
        """Half the L1 distance, in 0 ... 1, the outside counted as in :meth:`kl`."""
        return float(np.abs(self._with_outside() - other._with_outside()).sum() / 2)

    def total_correlation(self) -> float:
        """KL to the product of the positions' own marginals, in nats, within the support."""
        p = self.probs / self.probs.sum()
        found = -_entropy(p)
        for column in self.words.T:
            found += _entropy(np.bincount(np.unique(column, return_inverse=True)[1], weights=p))
        return found

    def _with_outside(self) -> np.ndarray:
        return np.append(self.probs, self.outside)


def _entropy(p: np.ndarray) -> float:
    held = p[p > 0]
    return float(-(held * np.log(held)).sum())


def exact_joint(
    teacher: Teacher,
    ids: Sequence[int],
    support: Sequence[Sequence[int]],
    strategy: Strategy,
    batch_size: int = 256,
) -> ExactJoint:
    """The distribution that ``strategy`` draws the masked positions of ``ids`` from.

    ids: one canvas with the mask id at m positions. support: the tokens to enumerate
    at each of them, from left to right. A random order is that of row 0.

    Raises UserError: no masked position, a support of another length or of too many
    words, a verified method (its rounds are no chain of draws).
    """
    masked = [place for place, token in enumerate(ids) if token == teacher.mask_id]
    if not masked or len(support) != len(masked):
        raise UserError(
            f"The canvas has {len(masked)} masked positions and the support {len(support)} lists: give "
            "one list of tokens per masked position, at least one."
        )
    if (count := math.prod(map(len, support))) > MOST_WORDS:
        raise UserError(
            f"The support has {count} words, more than {MOST_WORDS}: give fewer tokens or fewer masked "
            "positions."
        )
    if strategy.verification is not None:
        raise UserError("A verified method draws by rejection: its joint is not enumerated.")
    words = torch.tensor(list(itertools.product(*support)))
    log_probs = [
        _log_probs(teacher, torch.tensor(ids), masked, part, strategy)
        for part in words.split(batch_size)
    ]
    return ExactJoint(words.numpy(), torch.cat(log_probs).cpu().numpy())


def teacher_joint(
    teacher: Teacher, ids: Sequence[int], support: Sequence[Sequence[int]], strategy: Strategy
) -> ExactJoint:
    """The teacher's own joint by the chain rule in ``strategy``'s order: one token per full pass."""
    alone = replace(strategy, update=NoUpdate(), rule=FixedK(1), verification=None, step=None)
    return exact_joint(teacher, ids, support, alone)


@torch.inference_mode()
def _log_probs(
    teacher: Teacher,
    ids: Tensor,
    masked: Sequence[int],
    words: Tensor,
    strategy: Strategy,
) -> Tensor:
    """[B] float64 log-probabilities of words [B, m]."""
    batch, start = len(words), masked[0]
    # All rows have one row id, so that a random order is the same for every word.
    one = torch.zeros(batch, dtype=torch.long)
    canvas = Canvas(teacher, [ids[:start].tolist()] * batch, one, len(ids) - start)
    places = torch.tensor(masked, device=canvas.ids.device) - start
    known = torch.ones(canvas.length, dtype=torch.bool, device=canvas.ids.device)
    known[places] = False
    canvas.response(canvas.ids)[:, known] = ids[start:].to(canvas.ids.device)[known]
    canvas.masked[:, known] = False
    script = canvas.response(canvas.ids).clone()
    script[:, places] = words.to(script.device)
    each = torch.arange(batch, device=script.device)
    found = torch.zeros(batch, dtype=torch.float64, device=script.device)

    def observe(choice: Choice) -> None:
        probs = probabilities(choice.logits.double(), strategy.sampling)
        drawn = probs[each, script[each, choice.position]].log()
        found.add_(torch.where(choice.active, drawn, 0.0))

    reading = strategy.update.reading(teacher)
    Decoder(reading, strategy, canvas, Script(tokens=script), before=observe).run()
    return found
