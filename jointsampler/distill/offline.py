"""Offline targets: what training needs of the teacher, kept while the corpus is sampled.

Sequential sampling computes the teacher's states at every step anyway. At a few
anchor states of each row this file keeps what a distillation step from there
would ask for: the states that open the block (bfloat16), and at the window of
each later depth the teacher's top-m log-probabilities with the mass of the rest
as one more outcome. Training then asks the teacher nothing but its embedding and
head. One file per shard of rows; who writes it and where is the corpus stage's
business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .. import rng
from ..corpus.trajectories import Paths, Trajectories
from ..errors import UserError
from ..sampler.model import at_columns
from ..teachers.protocol import Teacher
from .objectives import HELD_FLOATS
from .targets import DepthTargets, LossPositions, Targets, Truth, keys_of, loss_positions, reachable

STREAM = 15  # of rng.uniform: where a row's anchors are


@dataclass(frozen=True)
class OfflineSettings:
    anchors: int  # states per row that training may start from
    top: int  # m, log-probabilities kept per position
    depths: int  # k_max - 1
    near: int
    far: int
    near_share: float
    read_layers: tuple[int, ...] = ()
    candidates: int = 0  # the sampler's window, outside which no target is kept


@dataclass(frozen=True)
class TopTruth:
    """The m likeliest tokens at N positions, and all others together."""

    ids: Tensor  # [N, m] int64
    log_probs: Tensor  # [N, m] float32
    rest: Tensor  # [N] float32, log of the mass that is left

    def split(self, size: int) -> list[TopTruth]:
        parts = zip(
            self.ids.split(size), self.log_probs.split(size), self.rest.split(size), strict=True
        )
        return [TopTruth(*part) for part in parts]

    def outcomes(self, teacher: Teacher, law: Tensor) -> tuple[Tensor, Tensor]:
        top = law.gather(-1, self.ids)
        rest = _log_rest(top)[:, None]
        return torch.cat([self.log_probs, self.rest[:, None]], dim=-1), torch.cat([top, rest], -1)


def _log_rest(log_probs: Tensor) -> Tensor:
    """Logarithm of the mass that [N, m] log-probabilities leave, [N]."""
    return torch.log(-torch.expm1(torch.logsumexp(log_probs, dim=-1).clamp_max(-1e-6)))


def top_of(log_probs: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, log-probabilities [N, m], log of the rest [N]) of normalised log_probs [N, V]."""
    best, ids = log_probs.topk(top, dim=-1)
    return ids, best, _log_rest(best)


def anchors_of(row_ids: Tensor, length: int, settings: OfflineSettings) -> Tensor:
    """[N, A] int64 sorted starts in 0 .. length - 2: one in each of A equal stretches of the path."""
    slots = torch.arange(settings.anchors)
    draw = rng.uniform(0, row_ids[:, None], slots[None], STREAM)
    return ((slots + draw) * (length - 1) / settings.anchors).long()


class Recorder:
    """A teacher that keeps the states of one batch's sequential generation, as far as anchors need them.

    Call i sees every row of the batch with i reveals made.
    """

    def __init__(self, teacher: Teacher, row_ids: Tensor, length: int, settings: OfflineSettings):
        self._teacher = teacher.reading(settings.read_layers) if settings.read_layers else teacher
        self._row_ids = row_ids.tolist()
        starts = anchors_of(row_ids, length, settings)
        steps = torch.arange(length)
        ahead = steps[None, None] - starts[..., None]  # [N, A, L]
        self._wanted = ((ahead >= 0) & (ahead <= settings.depths)).any(1)  # [N, L]
        self._calls = 0
        self.states: dict[tuple[int, int], Tensor] = {}  # (row id, step) -> [S, (1 + F) H] bfloat16

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        states = self._teacher.hidden(ids, attention_mask)
        rows = self._wanted[:, self._calls].nonzero()[:, 0]
        kept = states[rows.to(states.device)].bfloat16().cpu()
        for row, state in zip(rows.tolist(), kept, strict=True):
            self.states[self._row_ids[row], self._calls] = state
        self._calls += 1
        return states


@torch.no_grad()
def encode_targets(
    teacher: Teacher,
    seen: Mapping[tuple[int, int], Tensor],
    rows: Trajectories,
    settings: OfflineSettings,
) -> bytes:
    """One shard's file: the targets of ``rows``, from what recorders saw ((row id, step) -> states)."""
    paths = Paths.of(rows, teacher)
    last, width = rows.length - 1, paths.ids.shape[1]
    starts = anchors_of(rows.row_ids, rows.length, settings)
    openings, positions, weights, ids, log_probs, rest = [], [], [], [], [], []
    for anchor in range(settings.anchors):
        t = starts[:, anchor].to(paths.ids.device)
        keys = keys_of(paths, rows.row_ids, t)
        within = reachable(paths, t, settings.candidates)
        openings.append(_gathered(seen, rows.row_ids, starts[:, anchor], width))
        for d in range(1, settings.depths + 1):
            at = (t + d).clamp_max(last)
            where = loss_positions(
                paths, at, settings.near, settings.far, settings.near_share, 0, keys, within
            )
            states = _gathered(seen, rows.row_ids, at.cpu(), width)[..., : teacher.hidden_size]
            near = at_columns(states.to(paths.ids.device), paths.start + where.positions)
            parts = [
                top_of(torch.log_softmax(teacher.logits(part.float()), dim=-1), settings.top)
                for part in near.flatten(0, 1).split(max(1, HELD_FLOATS // teacher.vocab_size))
            ]
            top_ids, top, left = (torch.cat(each) for each in zip(*parts, strict=True))
            shape = where.positions.shape
            positions.append(where.positions.short())
            weights.append(where.weight)
            ids.append(top_ids.int().view(*shape, -1))
            log_probs.append(top.half().view(*shape, -1))
            rest.append(left.half().view(shape))

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        """[N, A, D, ...]"""
        whole = torch.stack([part.cpu() for part in parts], dim=1)
        return whole.unflatten(1, (settings.anchors, settings.depths)).contiguous()

    return save(
        {
            "row_ids": rows.row_ids,
            "starts": starts,
            "opening": torch.stack(openings, dim=1).contiguous(),
            "positions": stacked(positions),
            "weight": stacked(weights),
            "ids": stacked(ids),
            "log_probs": stacked(log_probs),
            "rest": stacked(rest),
        }
    )


def _gathered(
    seen: Mapping[tuple[int, int], Tensor], row_ids: Tensor, steps: Tensor, width: int
) -> Tensor:
    """[N, width, (1 + F) H] bfloat16: each row's states at its step, with ``width`` columns."""
    states = [seen[key] for key in zip(row_ids.tolist(), steps.tolist(), strict=True)]
    out = torch.zeros(len(states), width, states[0].shape[-1], dtype=torch.bfloat16)
    for row, state in enumerate(states):
        _right_aligned(out[row], state)
    return out


def _right_aligned(out: Tensor, state: Tensor) -> None:
    """Copy states that were padded on the left to another width, real columns to real columns."""
    size = min(len(out), len(state))
    out[len(out) - size :] = state[len(state) - size :].to(out)


class OfflineStates:
    """The targets of a corpus that was sampled with them; what ``TeacherStates`` is online."""

    def __init__(self, teacher: Teacher, trajectories: Trajectories, files: Sequence[bytes]):
        self.teacher, self.trajectories = teacher, trajectories
        self.shards = [load(data) for data in files]
        self.where = {
            int(row): (number, at)
            for number, shard in enumerate(self.shards)
            for at, row in enumerate(shard["row_ids"].tolist())
        }
        missing = [row for row in trajectories.row_ids.tolist() if row not in self.where]
        if missing:
            raise UserError(
                f"The corpus keeps no offline targets of row {missing[0]} and {len(missing) - 1} others: "
                "run the corpus stage again with the same corpus.anchors."
            )
        self.teacher_seconds = self.seconds = 0.0  # as in TeacherStates

    @torch.no_grad()
    def targets(
        self,
        index: Tensor,
        starts: Tensor,
        settings: Any,
        depths: int,
        seed: int,
        candidates: int = 0,
        step: int = 0,
    ) -> Targets:
        """Of rows ``index`` [B], cut at the anchor in whose stretch ``starts`` [B] fall.

        What ``settings`` and ``candidates`` say was settled when the corpus was sampled.
        """
        begin = time.perf_counter()
        rows = self.trajectories.select(index)
        paths = Paths.of(rows, self.teacher)
        device, width, last = paths.ids.device, paths.ids.shape[1], paths.order.shape[1] - 1
        picked: dict[str, list[Tensor]] = {}
        for row, start in zip(rows.row_ids.tolist(), starts.tolist(), strict=True):
            number, at = self.where[row]
            shard = self.shards[number]
            anchor = start * shard["starts"].shape[1] // last
            for name, values in shard.items():
                if name != "row_ids":
                    picked.setdefault(name, []).append(values[at, anchor])
        opening = torch.zeros(len(rows), width, picked["opening"][0].shape[-1], device=device)
        for row, state in enumerate(picked.pop("opening")):
            _right_aligned(opening[row], state)
        # Half precision is for the disk: autocast would refuse to stack it.
        stored = {
            name: torch.stack([v.float() if v.is_floating_point() else v for v in values]).to(
                device
            )
            for name, values in picked.items()
        }
        t = stored["starts"]
        at = torch.stack([(t + d).clamp_max(last) for d in range(depths + 1)])
        made = []
        for d in range(depths):
            where = LossPositions(stored["positions"][:, d].long(), stored["weight"][:, d])
            truth: Truth = TopTruth(
                stored["ids"][:, d].long().flatten(0, 1),
                stored["log_probs"][:, d].flatten(0, 1),
                stored["rest"][:, d].flatten(),
            )
            made.append(DepthTargets(where, truth, None))
        self.seconds += time.perf_counter() - begin
        return Targets(paths, at, opening, made)
