"""The table of methods: the cost of each and its distance to the true joint, on one teacher.

Every row is measured on the same prompts, seeds and order, and written in the
schema of ``results.py``. Fidelity is the KL of ``kl.py`` along sequential samples,
unconditional ones and answers to task prompts, on the recorded path and on the
method's own; NLL under a judge; accuracy on the tasks. Cost is teacher rows and
update passes at their measured ratio, and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..corpus.trajectories import Trajectories
from ..decoding.generate import Generation, check_k, generate
from ..decoding.methods import get_method
from ..decoding.orders import get_order
from ..decoding.prompts import longest_row
from ..decoding.sampling import Sampling
from ..decoding.strategy import Strategy
from ..environment import machine, packages
from ..memory import BatchSize
from ..tasks import TASKS, TAUGHT, UNSEEN, examples
from ..teachers.protocol import Teacher
from ..updates import Hybrid, Trained, Update, as_update
from .breakdown import breakdown
from .cost import UpdateCost, update_cost
from .differences import as_units, differences
from .diversity import diversity
from .grid import Setting
from .judges import Judge
from .kl import Reference, Walk, calibration
from .measured import NATS, NATS_ON_TASKS, Metric, Units
from .nll import generative_nll, nll_units
from .pairing import items_of, items_of_trajectories, judge_name
from .parallelism import COLUMNS, curves, task_figures
from .results import (
    Cost,
    Examples,
    Fidelity,
    MethodResult,
    Results,
    SamplerCard,
    TeacherCard,
)
from .stats import EXACT
from .unmasking import Unmasking, unmaskings

PATHS = ("recorded", "own")
_COST_BATCH = 16
_SHOWN = 4  # samples of every row that the report shows


@dataclass(frozen=True)
class Protocol:
    """The conditions that all rows share."""

    samples: int = 64
    max_new_tokens: int = 32
    prompts_per_task: int = 8
    tasks: tuple[str, ...] = tuple(sorted(TAUGHT))
    order: str = "entropy"
    seed: int = 0


def task_prompts(protocol: Protocol) -> list[tuple[str, str]]:
    """(task, prompt) pairs, the same for every method, from streams that no corpus draws prompts from."""
    return [
        (name, example.prompt)
        for name in protocol.tasks
        for example in examples(TASKS[name], protocol.seed + UNSEEN, protocol.prompts_per_task)
    ]


class Comparison:
    """Measures settings one by one on one teacher.

    ``updates`` by the names that settings use; "none" is always there.
    """

    def __init__(
        self,
        teacher: Teacher,
        updates: dict[str, Update],
        protocol: Protocol,
        judge: Judge | None = None,
    ):
        self.teacher, self.protocol, self.judge = teacher, protocol, judge
        self.updates = {"none": as_update(None)} | {n: as_update(u) for n, u in updates.items()}
        self.joint = updates.get("joint")
        self.prompts = task_prompts(protocol)
        self._costs: dict[str, UpdateCost] = {}
        self._shown: dict[str, tuple[list[str], list[Unmasking]]] = {}  # by the row's title
        self._references: dict[str, Reference] = {}

    def check(self, grid: Sequence[Setting]) -> None:
        """UserError for a setting that could not run, before the first row is measured."""
        for setting in grid:
            method = get_method(setting.method)
            method.chosen_update(self.updates[setting.update])
            self._strategy(setting)
            if method.has_k:
                check_k(setting.k, self.protocol.max_new_tokens)

    def rows(self, grid: Sequence[Setting]) -> Iterator[MethodResult]:
        """One row per setting, as each is measured."""
        self.check(grid)
        for setting in grid:
            yield self.row(setting)

    def row(self, setting: Setting) -> MethodResult:
        out = self._samples(setting, None)
        answers = self._samples(setting, [prompt for _, prompt in self.prompts])
        passes, rows, updates = (
            int(getattr(out, name).sum())
            for name in ("teacher_passes", "teacher_rows", "update_passes")
        )
        tokens, count = int(out.effective_tokens.sum()), len(out.texts)
        ends = out.round_ends.sum(0).double()
        distinct, self_bleu = diversity([out.texts])
        scores = None if self.judge is None else self.judge.score(out.texts)
        text, tasks = self._walks(setting, "text"), self._walks(setting, "tasks")
        units = {NATS[path]: as_units(walk.units()) for path, walk in text.items()}
        units |= {NATS_ON_TASKS["own"]: as_units(tasks["own"].units())} if "own" in tasks else {}
        units |= {} if scores is None else {"nll": nll_units(scores)}
        row = MethodResult(
            method=setting.method,
            update=setting.update,
            setting=setting.knobs,
            samples=count,
            kl=self._fidelity(setting, text),
            kl_on_tasks=self._fidelity(setting, tasks),
            nll=None if scores is None else generative_nll(scores),
            distinct=distinct,
            self_bleu=self_bleu,
            teacher_passes=passes / count,
            teacher_rows=rows / count,
            update_passes=updates / count,
            tokens_per_pass=tokens / passes,
            tokens_per_row=tokens / rows,
            tokens_per_cost=self._per_cost(setting, tokens, rows, updates),
            tokens_per_second=tokens / out.seconds,
            round_ends=tuple((ends / ends.sum()).tolist()) if ends.any() else None,
            **self._on_tasks(setting, answers, units),
        )
        self._shown[row.title] = out.texts[:_SHOWN], unmaskings(out, self.teacher, _SHOWN)
        return row

    def _on_tasks(
        self, setting: Setting, answers: Generation | None, units: dict[Metric, Units]
    ) -> dict[str, Any]:
        """The fields of a row that the task prompts give, with ``units`` among its units."""
        if answers is None:
            return {"units": units}
        tokens, passes, rows, updates = (
            getattr(answers, name).double().numpy()
            for name in ("effective_tokens", "teacher_passes", "teacher_rows", "update_passes")
        )
        cost = rows + self._ratio(setting) * updates
        found = task_figures(self._right(answers), tokens, passes, cost)
        return found | {"units": units | found["units"]}

    def results(
        self, rows: Sequence[MethodResult], against: Collection[str] = ("sequential",)
    ) -> Results:
        """``rows`` with the conditions under which they were measured.

        ``against``: the methods from whose rows all others differ (``differences.py``).
        """
        teacher = self.teacher
        titles = [row.title for row in rows]
        texts, records = zip(*(self._shown[title] for title in titles), strict=True)
        card = None
        if isinstance(self.joint, Trained | Hybrid):
            card = SamplerCard.of(self.joint.module)
        return Results(
            config=asdict(self.protocol),
            versions=packages(),
            machine=machine(),
            teacher=TeacherCard(
                name=teacher.name, family=teacher.family, fingerprint=teacher.fingerprint
            ),
            sampler=card,
            judge="none" if self.judge is None else self.judge.name,
            costs={name: Cost(**cost.as_dict()) for name, cost in self._costs.items()},
            methods=list(rows),
            items=self._items(),
            differences=differences(rows, against),
            curves=curves(rows),
            examples=Examples(columns=titles, texts=list(texts), unmaskings=list(records)),
            calibration=self._calibration(),
        )

    def _items(self) -> dict[Metric, str]:
        """What says which prompts, seeds and trajectories the units are."""
        protocol = self.protocol
        drawn = (self.teacher.fingerprint, protocol.max_new_tokens, protocol.order, protocol.seed)
        found: dict[Metric, str] = dict.fromkeys(COLUMNS, items_of(*drawn, self.prompts))
        if self.judge is not None:
            found["nll"] = items_of(*drawn, protocol.samples, judge_name(self.judge.name))
        for kind, metrics in (("text", NATS.values()), ("tasks", [NATS_ON_TASKS["own"]])):
            if (reference := self._references.get(kind)) is not None:
                items = items_of_trajectories(reference.trajectories, protocol.order, 1.0)
                found |= dict.fromkeys(metrics, items)
        return found

    def _samples(self, setting: Setting, prompts: list[str] | None) -> Generation | None:
        if prompts is not None and not prompts:
            return None
        protocol = self.protocol
        purpose = f"samples, {setting.method}, {setting.knobs}"
        length = longest_row(self.teacher, prompts, protocol.max_new_tokens)
        return generate(
            self.teacher,
            self.updates[setting.update],
            prompts,
            setting.method,
            setting.k,
            num_samples=protocol.samples if prompts is None else 1,
            max_new_tokens=protocol.max_new_tokens,
            order=protocol.order,
            seed=protocol.seed,
            batch_size=BatchSize.of(self.teacher, length, purpose, 64),
            stop_at_end=bool(self.teacher.end_ids),
            **setting.rule,
        )

    def _right(self, answers: Generation) -> np.ndarray:
        """[n] float64: 1 for a correct answer."""
        right = [
            float(TASKS[name].check(prompt, text))
            for (name, prompt), text in zip(self.prompts, answers.texts, strict=True)
        ]
        return np.array(right)

    def _reference(self, kind: str) -> Reference | None:
        """Sequential samples, unconditional ("text") or answers ("tasks"); None without prompts."""
        prompts = [prompt for _, prompt in self.prompts] if kind == "tasks" else None
        if prompts is not None and not prompts:
            return None
        if kind not in self._references:
            protocol, seed = self.protocol, self.protocol.seed + 1
            truth = generate(
                self.teacher,
                prompts=prompts,
                method="sequential",
                num_samples=protocol.samples if prompts is None else 1,
                max_new_tokens=protocol.max_new_tokens,
                order=protocol.order,
                seed=seed,
                stop_at_end=bool(self.teacher.end_ids),
            )
            rows = Trajectories.from_generation(truth, seed, self.teacher)
            size = BatchSize.of(self.teacher, rows.width, f"block KL, {kind}", 128, len(rows))
            self._references[kind] = Reference(self.teacher, rows, size)
        return self._references[kind]

    def _strategy(self, setting: Setting) -> Strategy:
        method, update = get_method(setting.method), self.updates[setting.update]
        length, order = self.protocol.max_new_tokens, get_order(self.protocol.order)
        seed = self.protocol.seed
        return method.strategy(update, setting.k, length, setting.rule, order, Sampling(), seed)

    def _walks(self, setting: Setting, kind: str) -> dict[str, Walk]:
        """By path; none where there are no prompts, or where the KL needs no measurement."""
        reference, method = self._reference(kind), get_method(setting.method)
        if reference is None or method.verification is not None or method.one_token:
            return {}
        return {path: reference.walk(self._strategy(setting), path, 1.0) for path in PATHS}

    def _fidelity(self, setting: Setting, walks: dict[str, Walk]) -> dict[str, Fidelity]:
        method = get_method(setting.method)
        if method.verification == "strict" or method.one_token:
            return {path: Fidelity(nats_per_token=EXACT) for path in PATHS}
        found = {}  # nothing for "tokens": exact conditionals in another order, so a KL would mislead
        for path, walk in walks.items():
            passes, updates = int(walk.teacher_passes.sum()), int(walk.update_passes.sum())
            speed = self._per_cost(setting, walk.tokens(), passes, updates)
            found[path] = Fidelity(
                nats_per_token=walk.nats_per_token(),
                tokens_per_cost=speed,
                breakdown=breakdown(walk),
            )
        return found

    def _per_cost(self, setting: Setting, tokens: int, rows: int, updates: int) -> float:
        return tokens / (rows + self._ratio(setting) * updates)

    def _ratio(self, setting: Setting) -> float:
        """The cost of one update of ``setting`` in full passes, measured once."""
        if not self.updates[setting.update].passes:
            return 0.0
        name = setting.update
        estimated = get_method(setting.method).rule.estimates
        key = f"{name} with its estimate" if estimated else name
        if key not in self._costs:
            protocol = self.protocol
            self._costs[key] = update_cost(
                self.teacher, self.updates[name], _COST_BATCH, protocol.max_new_tokens,
                protocol.order, estimated=estimated,
            )  # fmt: skip
        return self._costs[key].ratio

    def _calibration(self) -> list[tuple[float, float, int]]:
        """The trained sampler's estimates against the true KL, along its own path on text."""
        if "joint" not in self.updates:
            return []
        setting = Setting("adaptive", "joint", 4, {"budget": float("inf")})
        walk = self._reference("text").walk(self._strategy(setting), "own", 1.0)
        return calibration(walk.guesses())


def compare(
    comparison: Comparison,
    grid: Sequence[Setting],
    on_row: Callable[[MethodResult], None] | None = None,
    against: Collection[str] = ("sequential",),
) -> Results:
    """Measure every setting of ``grid``; ``on_row`` is called with each row as it is made.

    ``against``: as in :meth:`Comparison.results`.
    """
    rows = []
    for row in comparison.rows(grid):
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return comparison.results(rows, against)
