"""Refresh: rerun the teacher's own layers at a few columns after each reveal. No training.

All other columns keep the keys and values of the round's full pass, or of the
last refresh that recomputed them. The literature calls this approximate KV
caching for diffusion LMs: dKV-Cache (arXiv 2505.15781), Fast-dLLM's dual cache
(2505.22618), dLLM-Cache (2506.06295), d2Cache (2509.23094), Elastic-Cache
(2510.14973). Which columns are recomputed is left to ``columns/``, how a teacher
reruns them to ``teachers/columns.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..columns import ColumnPolicy, NearThenScores
from ..divergence import forward_kl
from ..errors import UserError
from ..sampler import at_columns
from ..sampler.estimator import Foresight
from ..teachers.columns import check_rerun
from ..teachers.protocol import Teacher
from .protocol import Opening, Reveal

# The estimate of the next reveal's KL, in nats: so much per reveal since the full pass, and so much
# per nat by which the next distribution has moved since then, divided by the number of columns.
# Fitted to the embedded teacher (64 tokens, 4 and 8 columns, rounds of 8 and 32, 12 rows): the means
# agree; among single reveals the estimate explains little (correlation of logarithms about 0.2).
NATS_PER_REVEAL = 0.0017
NATS_PER_DRIFT = 0.16


class Refresh:
    """``columns`` recomputed per update: the revealed one, masked positions up to distance ``near``,
    then the positions that the order would reveal next.

    Raises UserError: columns < 1, near < 0.
    """

    name = "refresh"
    passes = keeps_keys = ranks = estimates = True
    k_max = None

    def __init__(self, columns: int = 8, near: int = 2):
        if columns < 1:
            raise UserError(f"Refresh needs at least 1 column, not {columns}.")
        if near < 0:
            raise UserError(f"Refresh needs near >= 0, not {near}.")
        self.columns, self.near = columns, near
        self.policy: ColumnPolicy = NearThenScores(columns, near)

    def __repr__(self) -> str:
        return f"Refresh(columns={self.columns}, near={self.near})"

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
        self._policy, self._columns = update.policy, update.columns
        self._teacher, self._mask = teacher, attention_mask
        self._stored = opening.stored
        # One position more than the canvas has: a shifted family's last column predicts it.
        self._buffer = F.pad(opening.states, (0, 0, 0, 1))

    @property
    def states(self) -> Tensor:
        return self._buffer[:, :-1]

    def advance(self, reveal: Reveal) -> Tensor:
        teacher, size = self._teacher, reveal.ids.shape[1]
        columns = self._policy.choose(
            reveal.position, reveal.masked, reveal.scores, teacher.shift, self._mask
        )
        outputs = teacher.rerun(reveal.ids, columns, self._mask, self._stored)  # [B, C, H]
        self._write(columns + teacher.shift, outputs)
        if not teacher.shift:
            return columns
        # A row's first real column also predicts its own position, which no column precedes.
        first = self._first(reveal.ids)
        own = torch.where(columns == first, columns, size)
        kept = at_columns(self._buffer, own)
        self._write(own, torch.where((own < size)[..., None], outputs, kept))
        return torch.cat([columns + teacher.shift, own], dim=1)

    def _first(self, ids: Tensor) -> Tensor:
        """[B, 1] int64, each row's first column that is not padding."""
        if self._mask is None:
            return torch.zeros(len(ids), 1, dtype=torch.long, device=ids.device)
        return self._mask.int().argmax(dim=1, keepdim=True)

    def _write(self, positions: Tensor, states: Tensor) -> None:
        index = positions[..., None].expand_as(states)
        self._buffer.scatter_(1, index, states.to(self._buffer.dtype))

    def estimate(self, seen: Foresight) -> Tensor:
        """From the age of the full pass and the drift of the next position's distribution since then."""
        now = torch.log_softmax(seen.logits, dim=-1)
        drift = forward_kl(now, self._teacher.logits(seen.opening))
        return NATS_PER_REVEAL * seen.depth + NATS_PER_DRIFT / self._columns * drift
