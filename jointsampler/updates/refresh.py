"""Refresh: rerun the teacher's own layers at a few columns after each reveal. No training.

All other columns keep the keys and values of the round's full pass, or of the
last refresh that recomputed them. The literature calls this approximate KV
caching for diffusion LMs: dKV-Cache (arXiv 2505.15781), Fast-dLLM's dual cache
(2505.22618), dLLM-Cache (2506.06295), d2Cache (2509.23094), Elastic-Cache
(2510.14973). Which columns are recomputed is left to ``columns/``, how a teacher
reruns them to ``teachers/columns.py``.
"""

from __future__ import annotations

from torch import Tensor

from ..columns import ColumnPolicy, get_policy
from ..divergence import entropy
from ..sampler.estimator import Foresight
from ..teachers.columns import check_rerun
from ..teachers.keyvalues import Keep
from ..teachers.protocol import Teacher
from .at_columns import checked_columns, chosen, served, with_slot, write
from .protocol import Opening, Reveal

# The estimate of the next reveal's KL, in nats: this much per nat of entropy and per square root of
# the reveals since the full pass, divided by the number of columns. Fitted to the embedded teacher
# with 8 columns and one full pass per response: .042 on code (96 tokens), .075 on prompted tasks. On
# tasks the tenth of the reveals with the largest estimate holds .7 of the KL; on code every reveal is
# alike, .1.
NATS_PER_NAT = 0.05


class Refresh:
    """``columns`` recomputed per update, chosen by ``policy`` (a name in ``columns/``, or one of your own).

    Raises UserError: columns < 1, an unknown policy.
    """

    name = "refresh"
    passes = ranks = estimates = True
    k_max = None

    def __init__(self, columns: int = 8, policy: str | ColumnPolicy = "attention"):
        self.columns, self.policy = checked_columns(columns), get_policy(policy)
        self.keeps: Keep = self.policy.keeps

    def __repr__(self) -> str:
        return f"Refresh(columns={self.columns}, policy={self.policy.name!r})"

    def reading(self, teacher: Teacher) -> Teacher:
        check_rerun(teacher)
        return teacher

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> RefreshRound:
        return RefreshRound(self, teacher, opening, attention_mask)


class RefreshRound:
    def __init__(
        self,
        update: Refresh,
        teacher: Teacher,
        opening: Opening,
        attention_mask: Tensor | None,
    ):
        self.opening = opening.states
        self._update = update
        self._teacher, self._mask = teacher, attention_mask
        self._stored = opening.stored
        self._buffer = with_slot(opening.states)
        self._previous: Tensor | None = None  # [B] int64, the last reveal

    @property
    def states(self) -> Tensor:
        return self._buffer[:, :-1]

    def advance(self, reveal: Reveal) -> Tensor:
        previous, self._previous = self._previous, reveal.position
        columns = chosen(self._update, self._teacher, reveal, self._mask, self._stored, previous)
        return self.recompute(reveal.ids, columns)

    def recompute(self, ids: Tensor, columns: Tensor) -> Tensor:
        """Rerun ``columns`` [B, C] of ids [B, S]; returns the positions whose states are new."""
        outputs = self._teacher.rerun(ids, columns, self._mask, self._stored)  # [B, C, H]
        positions, states = served(self._teacher, columns, outputs, self._mask, ids.shape[1])
        write(self._buffer, positions, states)
        return positions

    def estimate(self, seen: Foresight) -> Tensor:
        """From the entropy of the next position's distribution and the age of the full pass."""
        age = seen.depth.float().sqrt()
        return NATS_PER_NAT / self._update.columns * entropy(seen.logits) * age
