"""Targets: what a distillation step needs of the teacher, and where the loss looks.

The loss looks at the positions revealed next, which is where decoding will read
the sampler, and at random other masked ones, so that no position is left to
itself. The teacher is asked as the step goes (``TeacherStates``) or was asked
while the corpus was sampled (``offline.py``); a step cannot tell.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import rng
from ..corpus.trajectories import Paths, Trajectories
from ..decoding.sampling import Sampling, draw, probabilities
from ..sampler.model import at_columns
from ..teachers.protocol import Teacher

STREAM = 11  # of rng.uniform: which far positions enter the loss
STREAM_FRESH, STREAM_TOKEN = 16, 17  # which states are continued afresh, and with what


@dataclass(frozen=True)
class LossPositions:
    """C response positions per state where the loss is taken."""

    positions: Tensor  # [B, C] int64, relative to the response
    weight: Tensor  # [B, C] float32, sums to 1 in every row that has a masked position, else 0


def loss_positions(
    paths: Paths,
    t: Tensor,
    near: int,
    far: int,
    near_share: float,
    seed: int,
    keys: Tensor,
    within: Tensor | None = None,
) -> LossPositions:
    """The ``near`` positions revealed next at state x_t and ``far`` others among the masked.

    The near ones share ``near_share`` of the weight, the far ones stand for all
    other masked positions. t: [B]; keys: [B] int64, what the choice is seeded with;
    within: [B, L] bool, where the sampler can move anything, None is everywhere.
    """
    length = paths.rank.shape[1]
    ahead = paths.rank - t[:, None]  # [B, L], < 0 where revealed, 0 at the next position
    masked = ahead >= 0
    if within is not None:
        masked = masked & within
        ahead = torch.where(within, ahead, -1)
    places = torch.arange(length, device=ahead.device)
    draws = rng.uniform(seed, keys[:, None], places[None], STREAM)
    # Near positions in order, then the other masked ones shuffled, then the revealed.
    key = torch.where(ahead < near, ahead.double(), length + draws)
    key = torch.where(masked, key, 3.0 * length)
    positions = key.argsort(dim=1)[:, : near + far]
    picked = ahead.gather(1, positions)
    is_near = ((picked >= 0) & (picked < near)).float()
    is_far = (picked >= near).float()
    n_near, n_far = is_near.sum(1, keepdim=True), is_far.sum(1, keepdim=True)
    share = torch.where(n_far > 0, near_share, 1.0) * (n_near > 0)
    weight = is_near * share / n_near.clamp_min(1) + is_far * (1 - share) / n_far.clamp_min(1)
    return LossPositions(positions, weight)


class Truth(Protocol):
    """The teacher's conditionals at N positions."""

    def split(self, size: int) -> list[Truth]:
        """In parts of ``size`` positions."""

    def outcomes(self, teacher: Teacher, law: Tensor) -> tuple[Tensor, Tensor]:
        """(teacher's, sampler's) log-probabilities [N, O] of the same outcomes.

        law: [N, V], the sampler's normalised log-probabilities.
        """


@dataclass(frozen=True)
class FullTruth:
    """All of the vocabulary, from the teacher's states [N, H]."""

    states: Tensor

    def split(self, size: int) -> list[FullTruth]:
        return [FullTruth(part) for part in self.states.split(size)]

    def outcomes(self, teacher: Teacher, law: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return torch.log_softmax(teacher.logits(self.states), dim=-1), law


@dataclass(frozen=True)
class DepthTargets:
    """What one depth of a step is held to."""

    where: LossPositions
    truth: Truth  # at these positions, [B * C] of them
    hidden: Tensor | None  # [B, S, H], the teacher's; None where it was not kept


@dataclass(frozen=True)
class Targets:
    """What one step is held to: B paths from their opening state to depth D."""

    paths: Paths
    at: Tensor  # [D + 1, B] int64, reveals made in each state
    opening: Tensor  # [B, S, (1 + F) H]
    depths: list[DepthTargets]


def keys_of(paths: Paths, row_ids: Tensor, starts: Tensor) -> Tensor:
    """[B] int64, one per state: what the choice of far positions is seeded with."""
    return row_ids.to(starts.device) * paths.order.shape[1] + starts


def reachable(paths: Paths, t: Tensor, candidates: int) -> Tensor | None:
    """[B, L] bool: the positions in a window of ``candidates`` opened at x_t; None without one."""
    return paths.rank - t[:, None] < candidates if candidates else None


class TargetSettings(Protocol):
    """The part of the distillation settings that targets depend on."""

    near: int
    far: int
    near_share: float
    fresh: float


class TeacherStates:
    """The teacher's hidden states along trajectories: computed when asked, or once and kept.

    With ``cache_gib`` of memory, all states of a row are computed when the row
    is first met and kept in bfloat16, so that from then on training needs no
    teacher pass; rows beyond the budget stay online. A row costs L x S x H x 2
    bytes (more if intermediate layers are read): a megabyte or less for a small teacher, too much for a 7B one.
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
        """What keeping all states of ``row`` takes."""
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
        settings: TargetSettings,
        depths: int,
        seed: int,
        candidates: int = 0,
        step: int = 0,
    ) -> Targets:
        """Of rows ``index`` [B] cut at ``starts`` [B], to depth ``depths``.

        ``candidates``: the sampler's window, outside which the loss does not look; 0 is none.
        Of ``settings.fresh`` of the states, drawn anew in every ``step``, the teacher
        continues with tokens of its own instead of the recorded ones (:meth:`continued`).
        """
        begin = time.perf_counter()
        rows = self.trajectories.select(index)
        paths = Paths.of(rows, self.teacher)
        t = starts.to(paths.ids.device)
        last = paths.order.shape[1] - 1  # the last state with a masked position
        at = torch.stack([(t + d).clamp_max(last) for d in range(depths + 1)])
        keys, made = keys_of(paths, rows.row_ids, t), []
        fresh = None
        if settings.fresh:  # else not even the question, which on a GPU would wait for the answer
            fresh = rng.uniform(seed, keys, step, STREAM_FRESH) < settings.fresh
        if fresh is not None and bool(fresh.any()):
            paths, opening, later = self._mixed(index, paths, at, fresh, keys, seed, step)
        else:
            opening, later = self.hidden(index, paths, at)
        within = reachable(paths, t, candidates)
        for d in range(1, depths + 1):
            where = loss_positions(
                paths, at[d], settings.near, settings.far, settings.near_share, seed, keys, within
            )
            states = at_columns(later[d - 1], paths.start + where.positions)
            made.append(DepthTargets(where, FullTruth(states.flatten(0, 1)), later[d - 1]))
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
        """(paths, opening, later) of a batch whose rows ``fresh`` [B] are continued, the others as recorded."""
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
        """(ids [B, S], later states [D, B, S, H]) where the teacher draws what is revealed from at[0] on.

        Where it draws is recorded, what it draws is not: one teacher pass per
        depth, as many as the recorded path takes. opening: [B, S, H or more] at
        at[0], at: [D + 1, B], keys: [B] int64.
        """
        each = torch.arange(len(keys), device=keys.device)
        size, later = self.teacher.hidden_size, []
        states = opening[..., :size]
        for before, now in itertools.pairwise(at):
            column = paths.start + paths.order[each, before]
            law = probabilities(self.teacher.logits(states[each, column]).float(), self.sampling)
            uniform = rng.uniform(seed, keys, step, before, STREAM_TOKEN)
            ids = paths.ids.index_put((each, column), draw(law, uniform))
            paths = dataclasses.replace(paths, ids=ids)
            states = self._ask(paths, now[None])[0, ..., :size]
            later.append(states)
        return paths.ids, torch.stack(later)

    @torch.no_grad()
    def hidden(self, index: Tensor, paths: Paths, at: Tensor) -> tuple[Tensor, Tensor]:
        """States of rows ``index`` [B] (whose paths are ``paths``) at reveals ``at`` [D, B].

        (what opens the block, at at[0]: [B, S, (1 + F) H]; the hidden states at
        the later ones: [D - 1, B, S, H]).
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
        every = torch.arange(one.length, device=paths.ids.device)
        states = self._ask(paths.repeat(one.length), every[None])[0]
        column = paths.start + paths.order[0]
        logits = self.teacher.logits(states[every, column, : self.teacher.hidden_size])
        law = probabilities(logits.float(), self.sampling)
        self.settled[row] = law.gather(-1, paths.ids[0, column][:, None])[:, 0].cpu()
        self.kept[row] = states.bfloat16().cpu()
        self.bytes += size
