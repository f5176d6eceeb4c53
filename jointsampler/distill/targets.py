"""Targets: the teacher's states along trajectories, computed on demand or kept in memory.

A distillation step needs the states that open a round and the teacher's states
after later reveals. Where the loss is taken is left to ``positions.py``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..corpus.trajectories import Paths, Trajectories
from ..memory import BatchSize
from ..sampler import at_columns
from ..teachers.protocol import Teacher
from .positions import DistillSettings, LossPositions, loss_positions, state_keys


@dataclass(frozen=True)
class Targets:
    """The teacher's answers of one step: B paths from their opening state to D later ones."""

    paths: Paths
    at: Tensor  # [D + 1, B] int64, reveals made in each state
    read: Tensor  # [D + 1, B, S, R], what the sampler reads of each state; see TeacherStates.read
    where: list[LossPositions]  # of the D later states
    truth: list[Tensor]  # [B * C, H] each, the teacher's hidden states at these positions


class TeacherStates:
    """The teacher's states along trajectories: computed at every call, or once and kept.

    With ``cache_gib`` of memory, all states of a row are computed when the row
    is first drawn and kept in bfloat16, so that later steps need no teacher pass
    for it. Rows beyond the budget stay online. A row takes L x S x R x 2 bytes:
    a megabyte or less for a small teacher, too much for a 7B one.

    ``teacher`` is the one that the sampler reads: R is H for the paper's form. A
    hybrid reads two layers, low and top, and R is 2 H: the final hidden states follow
    from the top layer's outputs.
    """

    def __init__(self, teacher: Teacher, trajectories: Trajectories, cache_gib: float = 0.0):
        self.teacher, self.trajectories = teacher, trajectories
        self.budget = int(cache_gib * 2**30)
        length, width = trajectories.length, trajectories.width
        self.batch_size = BatchSize.of(teacher, width, "states", length)  # of one row's states
        self.kept: dict[int, Tensor] = {}  # row -> [L, S, R] bfloat16
        self.bytes = 0
        self.teacher_rows = 0  # sequences that the teacher has been given
        self.teacher_seconds = 0.0  # in the teacher
        self.seconds = 0.0  # in all that :meth:`targets` does

    def row_bytes(self, row: int) -> int:
        """Memory that all states of ``row`` take."""
        length, prompt = self.trajectories.length, len(self.trajectories.prompts[row])
        width = self.teacher.hidden_size * max(1, len(self.teacher.read_layers))
        return length * (length + prompt) * width * 2

    @torch.no_grad()
    def fill(self, rows: Sequence[int]) -> None:
        """Compute and keep the states of ``rows``, as far as the budget goes."""
        for row in rows:
            if row not in self.kept:
                self._keep(row)

    @torch.no_grad()
    def targets(
        self,
        index: Tensor,
        starts: Tensor,
        advances: Tensor,
        settings: DistillSettings,
        seed: int,
    ) -> Targets:
        """Of rows ``index`` [B] cut at ``starts`` [B], and ``advances`` [D, B] reveals later."""
        begin = time.perf_counter()
        rows = self.trajectories.select(index)
        paths = Paths.of(rows, self.teacher)
        t = starts.to(paths.ids.device)
        last = (paths.reveals - 1).clamp_min(0)  # the last state with a position to reveal
        at = torch.minimum(torch.cat([t[None], t + advances.to(t)]), last)
        keys = state_keys(paths, rows.row_ids, t)
        read = self.read(index, paths, at)
        where = [loss_positions(paths, when, settings, seed, keys) for when in at[1:]]
        truth = [
            self.final(at_columns(later, paths.start + w.positions)).flatten(0, 1)
            for later, w in zip(read[1:], where, strict=True)
        ]
        self.seconds += time.perf_counter() - begin
        return Targets(paths, at, read, where, truth)

    def final(self, read: Tensor) -> Tensor:
        """Final hidden states [..., H] from what the sampler reads [..., R]."""
        if not self.teacher.read_layers:
            return read
        return self.teacher.finish(read[..., -self.teacher.hidden_size :])

    @torch.no_grad()
    def read(self, index: Tensor, paths: Paths, at: Tensor) -> Tensor:
        """[D, B, S, R]: states of rows ``index`` [B] (whose paths are ``paths``) at reveals ``at`` [D, B]."""
        rows = index.tolist()
        self.fill(rows)
        online = [b for b, row in enumerate(rows) if row not in self.kept]
        if len(online) == len(rows):
            return self._ask(paths, at)
        batch, width = paths.ids.shape
        some = next(iter(self.kept.values()))
        read = torch.zeros(len(at), batch, width, some.shape[-1], device=at.device)
        if online:
            where = torch.tensor(online, device=at.device)
            read[:, where] = self._ask(paths.select(where), at[:, where]).float()
        host = at.cpu()
        for b, row in enumerate(rows):
            if row in self.kept:
                kept = self.kept[row]
                read[:, b, width - kept.shape[1] :] = kept[host[:, b]].to(read)
        return read

    def _ask(self, paths: Paths, at: Tensor) -> Tensor:
        """One teacher call for all states, [D, B, S, R]."""
        begin = time.perf_counter()
        ids = torch.stack([paths.state(t) for t in at])
        depth, batch, length = ids.shape
        mask = paths.attention_mask
        mask = None if mask is None else mask.repeat(depth, 1)
        self.teacher_rows += depth * batch
        states = self.teacher.hidden(ids.reshape(depth * batch, length), mask)
        if self.teacher.read_layers:
            states = states[..., self.teacher.hidden_size :]
        if states.is_cuda:
            torch.cuda.synchronize(states.device)
        self.teacher_seconds += time.perf_counter() - begin
        return states.view(depth, batch, length, -1)

    def _keep(self, row: int) -> None:
        size = self.row_bytes(row)
        if self.bytes + size > self.budget:
            return
        one = self.trajectories.select([row])
        paths = Paths.of(one, self.teacher)
        every = torch.arange(int(one.reveals[0]), device=paths.ids.device)
        made = self.batch_size.over(
            len(every),
            lambda part: (
                self._ask(paths.repeat(len(part)), every[None, part.start : part.stop])[0]
                .bfloat16()
                .cpu()
            ),
        )
        self.kept[row] = torch.cat(made)
        self.bytes += size
