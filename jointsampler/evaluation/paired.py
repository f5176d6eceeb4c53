"""Contenders on the same prompts, seeds and random streams: accuracy and measured cost, paired.

A contender is any strategy that the loop can run. Prompts come in chunks, with as
many of each task in every chunk. All contenders do a chunk, one after the other,
before any does the next, so a machine that slows down slows all alike. Accuracy and
cost are ratios to the first contender, the reference, with intervals from a bootstrap
over prompts and over chunks. Cost is processor time, of all threads, per position of
the response; the positions behind an end token count, decoded or not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..corpus.trajectories import Trajectories
from ..decoding.generate import Generation, decode
from ..decoding.loop import Strategy
from ..decoding.prompts import encode_prompts
from ..decoding.stops import FixedK
from ..errors import UserError
from ..tasks import TASKS, TAUGHT, UNSEEN, examples
from ..teachers.protocol import Teacher
from ..updates import NoUpdate
from .kl import walk
from .results import Fidelity, MethodResult
from .stats import Interval, bootstrap


@dataclass(frozen=True)
class Contender:
    """A row of a paired table."""

    name: str
    setting: dict[str, int | float]
    strategy: Strategy
    update: str = "none"  # the name of the update, where it is not implied
    block_length: int | None = None


@dataclass(frozen=True)
class Paired:
    """The conditions that all contenders share."""

    prompts_per_task: int = 64
    max_new_tokens: int = 32
    tasks: tuple[str, ...] = tuple(sorted(TAUGHT))
    seed: int = 99
    each_in_chunk: int = 4  # prompts of each task in a chunk, which is a batch
    alone: int = 1  # prompts of each task that are timed again, one in a batch
    fidelity: int = 2  # prompts of each task along which the KL is measured

    def __post_init__(self) -> None:
        if self.prompts_per_task < 1 or self.each_in_chunk < 1:
            raise UserError("A paired comparison needs at least 1 prompt per task and chunk.")

    def prompts(self) -> list[tuple[str, str]]:
        """(task, prompt) pairs, one of each task after the other."""
        asked = [
            examples(TASKS[name], self.seed + UNSEEN, self.prompts_per_task) for name in self.tasks
        ]
        return [
            (name, row[i].prompt)
            for i in range(self.prompts_per_task)
            for name, row in zip(self.tasks, asked, strict=True)
        ]


@dataclass
class _Record:
    """What one contender has done so far; units are prompts or chunks."""

    right: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each chunk
    wall: float = 0.0
    alone: list[float] = field(default_factory=list)  # of each prompt in a batch of its own
    tokens: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    nats: Interval | None = None  # per token

    def add(self, out: Generation, seconds: float, right: list[bool]) -> None:
        self.right += map(float, right)
        self.seconds.append(seconds)
        self.wall += out.seconds
        self.tokens += int(out.effective_tokens.sum())
        for name in ("teacher_passes", "teacher_rows", "update_passes"):
            self.counts[name] = self.counts.get(name, 0) + int(getattr(out, name).sum())


class PairedRun:
    """The measurement of ``contenders``, the first of which is the reference of all ratios.

    :meth:`details` takes the times of single prompts and the KL, :meth:`chunks` decodes all
    prompts, and after every chunk :meth:`rows` is the table so far.
    """

    def __init__(self, teacher: Teacher, contenders: Sequence[Contender], conditions: Paired):
        self.teacher, self.contenders, self.conditions = teacher, contenders, conditions
        self._asked = conditions.prompts()
        texts = [prompt for _, prompt in self._asked]
        self._encoded = encode_prompts(teacher, texts, conditions.max_new_tokens)
        self._records = [_Record() for _ in contenders]
        self._parts = torch.arange(len(texts)).split(
            conditions.each_in_chunk * len(conditions.tasks)
        )

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self._parts)

    def details(self) -> None:
        """Time the first prompts one in a batch, and measure the KL along them."""
        conditions = self.conditions
        for contender in self.contenders:
            self._timed(contender, self._parts[0][:1])  # warms up
        for row in self._first(conditions.alone).split(1):
            for contender, record in zip(self.contenders, self._records, strict=True):
                record.alone.append(self._timed(contender, row)[1])
        if conditions.fidelity:
            for contender, record in zip(self.contenders, self._records, strict=True):
                record.nats = self._nats(contender)

    def chunks(self) -> Iterator[int]:
        """Decode chunk by chunk; yields the number of chunks done."""
        for done, rows in enumerate(self._parts, start=1):
            asked = [self._asked[i] for i in rows.tolist()]
            for contender, record in zip(self.contenders, self._records, strict=True):
                out, seconds = self._timed(contender, rows)
                pairs = zip(asked, out.texts, strict=True)
                right = [TASKS[name].check(prompt, text) for (name, prompt), text in pairs]
                record.add(out, seconds, right)
            yield done

    def rows(self) -> list[MethodResult]:
        """One row per contender, of the chunks done so far."""
        length, reference = self.conditions.max_new_tokens, self._records[0]
        return [
            _row(contender, record, reference, length)
            for contender, record in zip(self.contenders, self._records, strict=True)
        ]

    def _first(self, each: int) -> Tensor:
        """[N] int64: the first ``each`` prompts of every task, or all where there are fewer."""
        return torch.arange(min(each * len(self.conditions.tasks), len(self._encoded)))

    def _timed(self, contender: Contender, rows: Tensor) -> tuple[Generation, float]:
        """(the answers to the prompts ``rows``, processor seconds)."""
        begin = time.process_time()
        out = decode(
            self.teacher,
            contender.strategy,
            [self._encoded[i] for i in rows.tolist()],
            rows,
            self.conditions.max_new_tokens,
            method=contender.name,
            block_length=contender.block_length,
            stop_at_end=bool(self.teacher.end_ids),
        )
        return out, time.process_time() - begin

    def _nats(self, contender: Contender) -> Interval:
        """KL(teacher || contender) in nats per token, at its own samples and states."""
        rule, update = contender.strategy.rule, contender.strategy.update
        if isinstance(update, NoUpdate) and isinstance(rule, FixedK) and rule.limit == 1:
            return Interval(value=0.0, low=0.0, high=0.0, n=0)  # the joint itself
        conditions = self.conditions
        rows = self._first(conditions.fidelity)
        # A sampled path reads prompts and row ids alone.
        blank = torch.full((len(rows), conditions.max_new_tokens), -1)
        prompts = self._encoded[: len(rows)]
        trajectories = Trajectories(
            rows, prompts, blank, blank, conditions.seed, self.teacher.fingerprint
        )
        found = walk(
            self.teacher,
            contender.strategy,
            trajectories,
            path="sampled",
            block_length=contender.block_length,
        )
        return found.nats_per_token()


def _ratio(mine: Sequence[float], reference: Sequence[float]) -> Interval:
    """The ratio of two sums over the same units."""
    return bootstrap(lambda mean: mean[..., 0] / mean[..., 1], np.stack([mine, reference], axis=1))


def _row(
    contender: Contender,
    record: _Record,
    reference: _Record,
    length: int,
) -> MethodResult:
    count = len(record.right)
    passes, rows, updates = record.counts.values()
    cost = _ratio(record.seconds, reference.seconds)
    return MethodResult(
        method=contender.name,
        update=contender.update,
        setting=contender.setting,
        samples=count,
        kl_on_tasks={}
        if record.nats is None
        else {"sampled": Fidelity(nats_per_token=record.nats)},
        accuracy=bootstrap(lambda mean: mean[..., 0], np.array(record.right)[:, None]),
        accuracy_ratio=_ratio(record.right, reference.right) if any(reference.right) else None,
        cost=cost,
        cost_alone=_ratio(record.alone, reference.alone) if record.alone else None,
        teacher_passes=passes / count,
        teacher_rows=rows / count,
        update_passes=updates / count,
        tokens_per_pass=length * count / passes,
        tokens_per_row=length * count / rows,
        tokens_per_cost=1 / cost.value,
        tokens_per_second=record.tokens / record.wall,
    )
