"""Contenders on the same prompts, seeds and random streams: accuracy and measured cost, paired.

A contender is any strategy that the loop can run. Prompts come in chunks, with as
many of each task in every chunk. All contenders do a chunk, one after the other,
before any does the next, so a machine that slows down slows all alike. Accuracy and
cost are ratios to the first contender, the reference, with intervals from a bootstrap
over prompts and over chunks. Cost is time per response: processor time of all threads
where the teacher is on a CPU, and the clock on any other device.

For the statistics that all results share (``parallelism.py``, ``differences.py``) a prompt's
cost is in full passes: those of the reference for it, times its chunk's time over the
reference's. Their intervals resample prompts, and so leave out how the clock varies
between chunks; that of ``cost`` has it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..corpus.trajectories import Trajectories
from ..decoding.generate import Generation, decode
from ..decoding.prompts import encode_prompts
from ..decoding.stops import FixedK
from ..decoding.strategy import Strategy
from ..environment import machine, packages
from ..errors import UserError
from ..tasks import TASKS, TAUGHT, UNSEEN, examples
from ..teachers.protocol import Teacher
from ..updates import NoUpdate
from .differences import as_units, differences
from .kl import Walk, walk
from .measured import NATS_ON_TASKS, Metric
from .pairing import items_of
from .parallelism import COLUMNS, curves, task_figures
from .results import Examples, Fidelity, MethodResult, Results, TeacherCard
from .stats import EXACT, Interval, bootstrap
from .unmasking import unmaskings


@dataclass(frozen=True)
class Contender:
    """A row of a paired table."""

    name: str
    setting: dict[str, int | float]
    strategy: Strategy
    block_length: int | None = None

    @property
    def exact(self) -> bool:
        """Whether it is the joint itself: one token per full pass."""
        rule, update = self.strategy.rule, self.strategy.update
        return isinstance(update, NoUpdate) and isinstance(rule, FixedK) and rule.limit == 1


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
    """What one contender has done so far."""

    done: list[Generation] = field(default_factory=list)  # of each chunk
    seconds: list[float] = field(default_factory=list)  # of each chunk
    right: list[float] = field(default_factory=list)  # of each prompt
    alone: list[float] = field(default_factory=list)  # of each prompt in a batch of its own
    walk: Walk | None = None  # along its own answers to the first prompts

    def counts(self, name: str) -> np.ndarray:
        """[n] float64: a count of the generations, by prompt."""
        return torch.cat([getattr(out, name) for out in self.done]).double().numpy()

    def passes(self, reference: _Record) -> np.ndarray:
        """[n] float64: the cost of each prompt in full passes of ``reference``."""
        relative = np.divide(self.seconds, reference.seconds)
        sizes = [len(out.texts) for out in self.done]
        return np.repeat(relative, sizes) * reference.counts("teacher_rows")


class PairedRun:
    """The measurement of ``contenders``, the first of which is the reference of all ratios.

    :meth:`details` takes the times of single prompts and the KL, :meth:`chunks` decodes all
    prompts, after every chunk :meth:`rows` is the table so far, and :meth:`results` is the end.
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
                record.walk = None if contender.exact else self._walk(contender)

    def chunks(self) -> Iterator[int]:
        """Decode chunk by chunk; yields the number of chunks done."""
        for done, rows in enumerate(self._parts, start=1):
            asked = [self._asked[i] for i in rows.tolist()]
            for contender, record in zip(self.contenders, self._records, strict=True):
                out, seconds = self._timed(contender, rows)
                record.done.append(out)
                record.seconds.append(seconds)
                record.right += [
                    float(TASKS[name].check(prompt, text))
                    for (name, prompt), text in zip(asked, out.texts, strict=True)
                ]
            yield done

    def rows(self) -> list[MethodResult]:
        """One row per contender, of the chunks done so far."""
        return [
            _row(contender, record, self._records[0])
            for contender, record in zip(self.contenders, self._records, strict=True)
        ]

    def results(self, against: Collection[str] = ("sequential",), shown: int = 4) -> Results:
        """:meth:`rows` with the conditions under which they were measured.

        ``against``: the methods from whose rows all others differ (``differences.py``).
        ``shown``: prompts whose answers are kept as examples.
        """
        teacher, rows = self.teacher, self.rows()
        order = self.contenders[0].strategy.order.name
        drawn = (teacher.fingerprint, self.conditions.max_new_tokens, order, self.conditions.seed)
        items: dict[Metric, str] = dict.fromkeys(COLUMNS, items_of(*drawn, self._asked))
        if self.conditions.fidelity:
            first = self._asked[: len(self._first(self.conditions.fidelity))]
            items[NATS_ON_TASKS["sampled"]] = items_of(*drawn, first)
        return Results(
            config={**asdict(self.conditions), "order": order},
            versions=packages(),
            machine=machine(),
            teacher=TeacherCard(
                name=teacher.name, family=teacher.family, fingerprint=teacher.fingerprint
            ),
            methods=rows,
            items=items,
            differences=differences(rows, against),
            curves=curves(rows),
            examples=self._examples([row.title for row in rows], shown),
        )

    def _examples(self, titles: list[str], shown: int) -> Examples:
        """The answers to the first prompts of the first chunk, behind their prompts."""
        first = [record.done[0] for record in self._records]
        prompts = [prompt for _, prompt in self._asked[: min(shown, len(self._parts[0]))]]
        texts = [[p + text for p, text in zip(prompts, o.texts, strict=False)] for o in first]
        records = [unmaskings(out, self.teacher, len(prompts)) for out in first]
        return Examples(columns=titles, texts=texts, unmaskings=records)

    def _first(self, each: int) -> Tensor:
        """[N] int64: the first ``each`` prompts of every task, or all where there are fewer."""
        return torch.arange(min(each * len(self.conditions.tasks), len(self._encoded)))

    def _timed(self, contender: Contender, rows: Tensor) -> tuple[Generation, float]:
        """(the answers to the prompts ``rows``, seconds of the work)."""
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
        spent = time.process_time() - begin
        # While another device works, the processor may wait or sleep.
        return out, spent if self.teacher.device.type == "cpu" else out.seconds

    def _walk(self, contender: Contender) -> Walk:
        """KL(teacher || contender) at its own samples and states."""
        conditions = self.conditions
        rows = self._first(conditions.fidelity)
        # A sampled path reads prompts and row ids alone.
        blank = torch.full((len(rows), conditions.max_new_tokens), -1)
        prompts = self._encoded[: len(rows)]
        trajectories = Trajectories(
            rows, prompts, blank, blank, conditions.seed, self.teacher.fingerprint
        )
        return walk(
            self.teacher,
            contender.strategy,
            trajectories,
            path="sampled",
            block_length=contender.block_length,
        )


def _ratio(mine: Sequence[float], reference: Sequence[float]) -> Interval:
    """The ratio of two sums over the same units."""
    return bootstrap(lambda mean: mean[..., 0] / mean[..., 1], np.stack([mine, reference], axis=1))


def _row(contender: Contender, record: _Record, reference: _Record) -> MethodResult:
    tokens, passes, rows, updates = (
        record.counts(name)
        for name in ("effective_tokens", "teacher_passes", "teacher_rows", "update_passes")
    )
    cost = record.passes(reference)
    fields = task_figures(np.array(record.right), tokens, passes, cost)
    nats = EXACT if contender.exact else None
    if record.walk is not None:
        nats = record.walk.nats_per_token()
        fields["units"][NATS_ON_TASKS["sampled"]] = as_units(record.walk.units())
    return MethodResult(
        method=contender.name,
        update="none" if isinstance(contender.strategy.update, NoUpdate) else contender.name,
        setting=contender.setting,
        samples=len(record.right),
        kl_on_tasks={} if nats is None else {"sampled": Fidelity(nats_per_token=nats)},
        accuracy_ratio=_ratio(record.right, reference.right) if any(reference.right) else None,
        cost=_ratio(record.seconds, reference.seconds),
        cost_alone=_ratio(record.alone, reference.alone) if record.alone else None,
        teacher_passes=passes.mean(),
        teacher_rows=rows.mean(),
        update_passes=updates.mean(),
        tokens_per_pass=tokens.sum() / passes.sum(),
        tokens_per_row=tokens.sum() / rows.sum(),
        tokens_per_cost=tokens.sum() / cost.sum(),
        tokens_per_second=tokens.sum() / sum(out.seconds for out in record.done),
        **fields,
    )
