"""The work of an evaluation in items: samples of one method, or block KL on some held-out rows.

An item's result depends on the item and the settings alone, so items may be done
anywhere and in any order. ``collect.py`` puts the results together; who does
which item is the evaluation stage's business.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..corpus.sample import SampleSettings
from ..corpus.trajectories import Trajectories
from ..decoding import generate
from ..decoding.methods import get_method
from ..decoding.prompts import prompt_text
from ..errors import UserError
from ..memory import BatchSize
from ..teachers.protocol import Teacher
from ..updates import Refresh, Update
from .cost import UpdateCost, update_cost
from .judges import Judge, Scores
from .kl import BlockKL, Reference, block_kl
from .measured import NATS, Metric
from .pairing import items_of, items_of_trajectories, judge_name
from .unmasking import unmaskings

REFERENCE = ("reference", 1)  # sequential samples with seeds of their own, for MAUVE
SEQUENTIAL = ("sequential", 1)
ROWS_PER_ITEM = 24  # held-out rows of a KL item
PATHS = ("recorded", "own")  # of the KL
COST_BATCH = 16

KLKey = tuple[str, int, str]  # method, k, path


@dataclass(frozen=True)
class SampleItem:
    """Samples ``begin`` to ``end`` - 1 of one method and generation seed."""

    method: str
    k: int
    generation: int
    begin: int
    end: int


@dataclass(frozen=True)
class KLItem:
    """Held-out rows ``begin`` to ``end`` - 1: block KL of all methods at all k."""

    begin: int
    end: int


Item = SampleItem | KLItem


@dataclass(frozen=True)
class Samples:
    """The result of a :class:`SampleItem`; counts are sums over its samples."""

    texts: list[str]
    tokens: int  # before the first end token
    teacher_passes: int
    teacher_rows: int
    update_passes: int
    round_ends: list[int]  # verified rounds that ended full, by another order, by a rejection
    seconds: float
    scores: Scores | None  # of the judge
    # Records of unmasking.py as plain data, of the samples that the report shows.
    unmaskings: list[dict[str, Any]] = field(default_factory=list)


KLs = dict[KLKey, BlockKL]  # the result of a KLItem


def method_pairs(methods: Sequence[str], ks: Sequence[int]) -> tuple[tuple[str, int], ...]:
    """(method, k) of everything that is sampled: sequential first, and marginal always.

    Raises UserError: an unknown method, or one that takes no k.
    """
    names = list(dict.fromkeys(["marginal", *methods]))
    for name in names:
        if name != "sequential" and not get_method(name).has_k:
            raise UserError(
                f"evaluate.methods holds {name!r}, which takes no k: compare methods with a stop rule "
                "by 'jointsampler compare'."
            )
    pairs = [(name, k) for k in ks if k > 1 for name in names if name != "sequential"]
    return (SEQUENTIAL, *pairs)


def kl_keys(pairs: Sequence[tuple[str, int]]) -> list[KLKey]:
    """(method, k, path) of every block KL: of methods with an update and without a verification."""
    return [
        (method, k, path)
        for method, k in pairs
        if update_name(method) != "none" and get_method(method).verification is None
        for path in PATHS
    ]


def update_name(method: str) -> str:
    """The update between a method's reveals: "none", "refresh", or "joint" for the trained one."""
    kind = get_method(method).update
    return kind if kind in ("none", "refresh") else "joint"


def list_items(
    pairs: Sequence[tuple[str, int]],
    samples: int,
    generation_seeds: int,
    samples_per_item: int,
    held_out: int,
) -> list[Item]:
    """Every item of an evaluation; those that take long come first."""
    made = [
        SampleItem(method, k, generation, begin, min(begin + samples_per_item, samples))
        for (method, k), generation in itertools.product(
            (REFERENCE, *pairs), range(generation_seeds)
        )
        for begin in range(0, samples, samples_per_item)
    ]
    made.sort(key=lambda item: item.k)  # a small k takes many teacher passes
    rows = range(0, held_out, ROWS_PER_ITEM)
    meters = [KLItem(begin, min(begin + ROWS_PER_ITEM, held_out)) for begin in rows]
    return [*(meters if kl_keys(pairs) else []), *made]


def identities(
    settings: SampleSettings,
    held_out: Trajectories,
    samples: int,
    generation_seeds: int,
    judge: Sequence[str | None],
) -> dict[Metric, str]:
    """Metric -> digest of what its units are (``Results.items``); ``judge``: name and revision."""
    temperature = kl_temperature(settings.temperature)
    along = items_of_trajectories(held_out, settings.order, temperature)
    drawn = (held_out.teacher, dataclasses.asdict(settings), samples, generation_seeds)
    found: dict[Metric, str] = dict.fromkeys(NATS.values(), along)
    return found | {"nll": items_of(*drawn, judge_name(judge[0]), *judge[1:])}


class Evaluator:
    """Does items with one teacher, its updates and a judge.

    ``settings`` are those of the corpus; its prompts are those of the held-out
    rows alone. ``held_out`` are the held-out rows. The first ``shown`` samples of
    every method come with the record of their unmasking.
    """

    def __init__(
        self,
        teacher: Teacher,
        joint: Update | None,
        refresh: Refresh,
        judge: Judge | None,
        settings: SampleSettings,
        held_out: Trajectories,
        shown: int = 0,
    ):
        self.teacher, self.judge = teacher, judge
        self.updates = {"none": None, "refresh": refresh, "joint": joint}
        self.settings, self.held_out, self.shown = settings, held_out, shown
        self._batch_sizes: dict[tuple[str, int], BatchSize] = {}

    def do(self, item: Item, pairs: Sequence[tuple[str, int]]) -> Samples | KLs:
        if isinstance(item, SampleItem):
            return self.samples(item)
        return self.block_kl(item, pairs)

    def samples(self, item: SampleItem) -> Samples:
        """Draw the samples of ``item``, as the corpus was sampled, and score them."""
        settings, ids = self.settings, range(item.begin, item.end)
        is_reference = item.method == REFERENCE[0]
        method = SEQUENTIAL[0] if is_reference else item.method
        prompts = None
        if settings.prompts is not None:
            prompts = [settings.prompts[i % len(settings.prompts)] for i in ids]
        out = generate(
            self.teacher,
            self.updates[update_name(method)],
            prompts,
            method=method,
            k=item.k,
            num_samples=len(ids) if prompts is None else 1,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            order=settings.order,
            # The corpus, the reference and the samples have seeds of their own.
            seed=(settings.seed * 1_000 + item.generation) * 3 + (1 if is_reference else 2),
            batch_size=self._batch_size(f"samples, {method}, k = {item.k}", len(ids)),
            row_ids=ids,
            stop_at_end=bool(self.teacher.end_ids),
        )
        scores = None
        if self.judge is not None:
            context = None if prompts is None else [prompt_text(prompt) for prompt in prompts]
            scores = self.judge.score(out.texts, context)
        shown = 0 if is_reference or item.generation else self.shown - item.begin
        return Samples(
            out.texts,
            int(out.effective_tokens.sum()),
            int(out.teacher_passes.sum()),
            int(out.teacher_rows.sum()),
            int(out.update_passes.sum()),
            out.round_ends.sum(0).tolist(),
            out.seconds,
            scores,
            [record.model_dump() for record in unmaskings(out, self.teacher, max(shown, 0))],
        )

    def block_kl(self, item: KLItem, pairs: Sequence[tuple[str, int]]) -> KLs:
        """Block KL of every method, k and path on the rows of ``item``.

        The temperature is the corpus's, as in :func:`kl_temperature`.
        """
        rows = self.held_out.select(range(item.begin, item.end))
        reference = Reference(self.teacher, rows, self._batch_size("block KL", len(rows)))
        return {
            (method, k, path): block_kl(
                self.teacher,
                self.updates[update_name(method)],
                rows,
                k,
                path=path,
                temperature=kl_temperature(self.settings.temperature),
                order=self.settings.order,
                reference=reference,
            )
            for method, k, path in kl_keys(pairs)
        }

    def _batch_size(self, purpose: str, rows: int) -> BatchSize:
        """What fits for ``purpose``, in items of ``rows`` rows."""
        key = (purpose, rows)
        if key not in self._batch_sizes:
            width = self.held_out.width  # its prompts are those of the samples
            self._batch_sizes[key] = BatchSize.of(self.teacher, width, purpose, rows)
        return self._batch_sizes[key]

    def costs(self, pairs: Sequence[tuple[str, int]]) -> dict[str, UpdateCost]:
        """The cost of each update that the methods use, on this device, by the update's name."""
        names = sorted({update_name(method) for method, _ in pairs} - {"none"})
        length, order = self.settings.max_new_tokens, self.settings.order
        return {
            name: update_cost(self.teacher, self.updates[name], COST_BATCH, length, order)
            for name in names
        }


def kl_temperature(temperature: float) -> float:
    """The temperature of KL figures for samples drawn at ``temperature``: 1 where they were greedy.

    A greedy distribution has one token, and no other has a finite KL to it.
    """
    return temperature if temperature > 0 else 1.0
