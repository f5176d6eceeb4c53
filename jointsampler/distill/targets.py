"""Targets: the teacher's states along trajectories, computed on demand or kept in memory.

A distillation step needs the states that open a round and the teacher's states
after each later reveal. Where the loss is taken is left to ``positions.py``.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..corpus.trajectories import Paths, Trajectories
from ..decoding.sampling import Sampling, draw, probabilities
from ..sampler import at_columns
from ..teachers.protocol import Teacher
from .positions import DistillSettings, LossPositions, loss_positions, state_keys


@dataclass(frozen=True)
class DepthTargets:
    """The teacher's answer at one depth of a step."""

    where: LossPositions
    truth: Tensor  # [B * C, H], the teacher's states at these positions


@dataclass(frozen=True)
class Targets:
    """The teacher's answers of one step: B paths from their opening state to depth D."""

    paths: Paths
    at: Tensor  # [D + 1, B] int64, reveals made in each state
    opening: Tensor  # [B, S, (1 + F) H]
    depths: list[DepthTargets]


def start_weights(states: TeacherStates, certain: float) -> Callable[[Tensor], Tensor] | None:
    """For ``draw_states``: a start weighs ``certain`` where the teacher was sure of its first token, else up to 1.

    A certain token changes the other conditionals little, so a sampler learns
    little there. None where ``certain`` is 1.
    """
    if certain == 1:
        return None
    return lambda rows: 1 - (1 - certain) * states.certainty(rows)[:, :-1]


class TeacherStates:
    """The teacher's hidden states along trajectories: computed at every call, or once and kept.

    With ``cache_gib`` of memory, all states of a row are computed when the row
    is first drawn and kept in bfloat16, so that later steps need no teacher pass
    for it. Rows beyond the budget stay online. A row takes L x S x H x 2 bytes
    (more if inner layers are read): a megabyte or less for a small teacher, too
    much for a 7B one.
    """

    def __init__(
        self,
        teacher: Teacher,
        trajectories: Trajectories,
        cache_gib: float = 0.0,
        sampling: Sampling | None = None,
    ):
        self.teacher, self.trajectories = teacher, trajectories
        self.sampling = sampling or Sampling()  # of the corpus
        self.budget = int(cache_gib * 2**30)
        self.kept: dict[int, Tensor] = {}  # row -> [L, S, (1 + F) H] bfloat16
        self.settled: dict[int, Tensor] = {}  # kept row -> [L], see :meth:`certainty`
        self.bytes = 0
        self.teacher_rows = 0  # sequences that the teacher has been given
        self.teacher_seconds = 0.0  # in the teacher
        self.seconds = 0.0  # in all that :meth:`targets` does

    def row_bytes(self, row: int) -> int:
        """Memory that all states of ``row`` take."""
        length, prompt = self.trajectories.length, len(self.trajectories.prompts[row])
        width = self.teacher.hidden_size * (1 + len(self.teacher.read_layers))
        return length * (length + prompt) * width * 2

    @torch.no_grad()
    def fill(self, rows: Sequence[int]) -> None:
        """Compute and keep the states of ``rows``, as far as the budget goes."""
        for row in rows:
            if row not in self.kept:
                self._keep(row)

    def certainty(self, index: Tensor) -> Tensor:
        """[B, L] float32: the teacher's probability of each recorded token when it was revealed.

        Of rows ``index`` [B], in the order of the reveals. KeyError where a row is not kept.
        """
        return torch.stack([self.settled[row] for row in index.tolist()])

    def targets(
        self,
        index: Tensor,
        starts: Tensor,
        settings: DistillSettings,
        depths: int,
        seed: int,
        step: int = 0,
    ) -> Targets:
        """Of rows ``index`` [B] cut at ``starts`` [B], to depth ``depths``.

        A share ``settings.fresh`` of the states, drawn anew in every ``step``,
        continues with new tokens of the teacher instead of the recorded ones
        (:meth:`continued`).
        """
        begin = time.perf_counter()
        rows = self.trajectories.select(index)
        paths = Paths.of(rows, self.teacher)
        t = starts.to(paths.ids.device)
        last = (paths.reveals - 1).clamp_min(0)  # the last state with a position to reveal
        at = torch.stack([torch.minimum(t + d, last) for d in range(depths + 1)])
        keys, made = state_keys(paths, rows.row_ids, t), []
        fresh = None
        if settings.fresh:  # without it no draw, whose answer the host would wait for on a GPU
            fresh = rng.uniform(seed, keys, step, rng.FRESH) < settings.fresh
        if fresh is not None and bool(fresh.any()):
            paths, opening, later = self._mixed(index, paths, at, fresh, keys, seed, step)
        else:
            opening, later = self.hidden(index, paths, at)
        for d in range(1, depths + 1):
            where = loss_positions(paths, at[d], settings, seed, keys)
            states = at_columns(later[d - 1], paths.start + where.positions)
            made.append(DepthTargets(where, states.flatten(0, 1)))
        self.seconds += time.perf_counter() - begin
        return Targets(paths, at, opening, made)

    @torch.no_grad()
    def _mixed(
        self,
        index: Tensor,
        paths: Paths,
        at: Tensor,
        fresh: Tensor,
        keys: Tensor,
        seed: int,
        step: int,
    ) -> tuple[Paths, Tensor, Tensor]:
        """(paths, opening, later) of a batch whose rows ``fresh`` [B] get new tokens, the others as recorded."""
        again, same = fresh.nonzero()[:, 0], (~fresh).nonzero()[:, 0]
        opening, _ = self.hidden(index[again.cpu()], paths.select(again), at[:1, again])
        new, later = self.continued(
            paths.select(again), opening, at[:, again], keys[again], seed, step
        )
        paths = dataclasses.replace(paths, ids=paths.ids.index_copy(0, again, new))
        if len(same) == 0:
            return paths, opening, later
        other, others = self.hidden(index[same.cpu()], paths.select(same), at[:, same])
        where = torch.cat([again, same]).argsort()
        return (
            paths,
            torch.cat([opening, other.to(opening)])[where],
            torch.cat([later, others.to(later)], dim=1)[:, where],
        )

    @torch.no_grad()
    def continued(
        self,
        paths: Paths,
        opening: Tensor,
        at: Tensor,
        keys: Tensor,
        seed: int,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """(ids [B, S], later states [D, B, S, H]) with new tokens from reveal at[0] on.

        The positions are the recorded ones, the tokens are drawn from the teacher:
        one teacher pass per depth, as many as the recorded path takes. opening:
        [B, S, H or more] at at[0], at: [D + 1, B], keys: [B] int64.
        """
        each = torch.arange(len(keys), device=keys.device)
        size, later = self.teacher.hidden_size, []
        states = opening[..., :size]
        for before, now in itertools.pairwise(at):
            column = paths.start + paths.order[each, before].clamp_min(0)
            probs = probabilities(self.teacher.logits(states[each, column]).float(), self.sampling)
            uniform = rng.uniform(seed, keys, step, before, rng.FRESH_TOKEN)
            ids = paths.ids.index_put((each, column), draw(probs, uniform))
            paths = dataclasses.replace(paths, ids=ids)
            states = self._ask(paths, now[None])[0, ..., :size]
            later.append(states)
        return paths.ids, torch.stack(later)

    @torch.no_grad()
    def hidden(self, index: Tensor, paths: Paths, at: Tensor) -> tuple[Tensor, Tensor]:
        """States of rows ``index`` [B] (whose paths are ``paths``) at reveals ``at`` [D, B].

        Returns the states that open the round, at at[0], [B, S, (1 + F) H], and the
        hidden states at the later ones, [D - 1, B, S, H].
        """
        rows, size = index.tolist(), self.teacher.hidden_size
        self.fill(rows)
        online = [b for b, row in enumerate(rows) if row not in self.kept]
        if len(online) == len(rows):
            states = self._ask(paths, at)
            opening, later = states[0], states[1:, ..., :size]
        else:
            batch, width = paths.ids.shape
            some = next(iter(self.kept.values()))
            opening = torch.zeros(batch, width, some.shape[-1], device=at.device)
            later = torch.zeros(len(at) - 1, batch, width, size, device=at.device)
            if online:
                where = torch.tensor(online, device=at.device)
                states = self._ask(paths.select(where), at[:, where])
                opening[where], later[:, where] = states[0].float(), states[1:, ..., :size].float()
            host = at.cpu()
            for b, row in enumerate(rows):
                if row not in self.kept:
                    continue
                kept, when = self.kept[row], host[:, b]
                first = width - kept.shape[1]
                opening[b, first:] = kept[when[0]].to(opening)
                later[:, b, first:] = kept[when[1:], :, :size].to(later)
        return opening, later

    def _ask(self, paths: Paths, at: Tensor) -> Tensor:
        """One teacher call for all states, [D, B, S, (1 + F) H]."""
        begin = time.perf_counter()
        ids = torch.stack([paths.state(t) for t in at])
        depth, batch, length = ids.shape
        mask = paths.attention_mask
        mask = None if mask is None else mask.repeat(depth, 1)
        self.teacher_rows += depth * batch
        states = self.teacher.hidden(ids.reshape(depth * batch, length), mask)
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
        states = self._ask(paths.repeat(len(every)), every[None])[0]
        column = paths.start + paths.order[0, : len(every)]
        logits = self.teacher.logits(states[every, column, : self.teacher.hidden_size])
        probs = probabilities(logits.float(), self.sampling)
        settled = torch.ones(one.length)
        settled[: len(every)] = probs.gather(-1, paths.ids[0, column][:, None])[:, 0].cpu()
        self.settled[row] = settled
        self.kept[row] = states.bfloat16().cpu()
        self.bytes += size
