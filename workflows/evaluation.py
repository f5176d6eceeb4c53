"""Evaluate: Ray Data actors sample and meter every method at every k; results.json is the outcome.

An actor holds teacher, sampler and judge, so that samples are scored where they
are drawn, and writes one file per item. An evaluation that was cut off goes on with
the missing items. What an item is and how it is done is in
``jointsampler/evaluation``; this file distributes the items.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from jointsampler import JointSampler, Refresh, storage
from jointsampler.config import ColumnsConfig, Config, EvaluateConfig
from jointsampler.corpus.manifest import read_rows
from jointsampler.corpus.sample import SampleSettings
from jointsampler.decoding.generate import check_k
from jointsampler.environment import machine, packages
from jointsampler.evaluation import saved
from jointsampler.evaluation.collect import Collected
from jointsampler.evaluation.cost import UpdateCost
from jointsampler.evaluation.differences import differences
from jointsampler.evaluation.items import (
    SEQUENTIAL,
    Evaluator,
    Item,
    Samples,
    identities,
    kl_temperature,
    list_items,
    method_pairs,
)
from jointsampler.evaluation.judges import Judge, check_judge, prepare_judge
from jointsampler.evaluation.results import (
    Cost,
    MethodResult,
    Results,
    SamplerCard,
    SweepTable,
    TeacherCard,
    write_results,
)
from jointsampler.report.markdown import markdown
from jointsampler.storage import Location
from jointsampler.updates import joint_update
from jointsampler.uris import shown, shown_all
from workflows import cluster, teachers
from workflows.corpus import prompts_of
from workflows.spread import Done, Worker, spread
from workflows.stage import Progress, ProgressLog, digest
from workflows.train.plan import TrainPlan
from workflows.train.plan import plan as plan_training

if TYPE_CHECKING:  # it loads MLflow, which a plan does not need
    from workflows.tracking import Tracker


@dataclass(frozen=True)
class EvaluatePlan:
    out: Path
    train: TrainPlan
    settings: EvaluateConfig
    columns: ColumnsConfig  # of a refresh and of a hybrid sampler
    pairs: tuple[tuple[str, int], ...]  # (method, k)
    config: Config

    stage = "evaluate"

    @property
    def results(self) -> Path:
        return self.out / "report" / "results.json"

    @property
    def key(self) -> str:
        swept = self.config.sweep.model_dump() if self.config.sweep.wanted else None
        settings = self.settings.model_dump(exclude={"actors"})
        return digest(self.train.key, settings, self.columns.model_dump(), swept)

    def intact(self) -> bool:
        return self.results.exists()

    @property
    def items_folder(self) -> Location:
        """Where the items' files are: of this configuration and of the sampler's weights as they are."""
        weights = storage.sha256((self.train.folder / "model.safetensors").read_bytes())
        name = digest(self.key, weights)
        return storage.join(storage.join(self.train.corpus.storage, "evaluate"), name)

    def sampling(self) -> SampleSettings:
        """The corpus's settings, with the prompts of its held-out rows."""
        plan = self.train.corpus
        prompts = prompts_of(plan)
        return plan.sampling(None if prompts is None else prompts[plan.settings.rows :])

    def items(self) -> list[Item]:
        settings = self.settings
        return list_items(
            self.pairs,
            settings.samples,
            settings.generation_seeds,
            settings.samples_per_item,
            self.train.corpus.settings.held_out,
        )


def plan(config: Config, out: Path) -> EvaluatePlan:
    """The evaluation to be made; raises every UserError that can be found before work starts."""
    settings = config.evaluate
    pairs = method_pairs(settings.methods, settings.ks)
    for k in settings.ks:
        check_k(k, config.corpus.max_new_tokens)
    check_judge(settings.judge, settings.judge_revision)
    return EvaluatePlan(out, plan_training(config, out), settings, config.columns, pairs, config)


def prepare(plan: EvaluatePlan) -> None:
    """Fetch the judge; UserError where that is impossible."""
    prepare_judge(plan.settings.judge, plan.settings.judge_revision)


class EvaluationActor(Worker):
    """Teacher, sampler and judge in a process of its own; does items and writes their files."""

    def load(self) -> None:
        settings = self.plan.settings
        self.items, self.folder = self.plan.items(), self.plan.items_folder
        judge = prepare_judge(settings.judge, settings.judge_revision)
        self.evaluator = evaluator(self.plan, judge)

    def do(self, index: int) -> Done:
        item, begin = self.items[index], time.perf_counter()
        result = self.evaluator.do(item, self.plan.pairs)
        saved.save(self.folder, index, item, result)
        rows = item.end - item.begin
        tokens = result.tokens if isinstance(result, Samples) else 0
        return Done(saved.name_of(index), rows, tokens, time.perf_counter() - begin)


def evaluator(plan: EvaluatePlan, judge: str | None) -> Evaluator:
    """The library's worker, with everything loaded on this process's device."""
    corpus = plan.train.corpus
    teacher = teachers.load_same(corpus.teacher, corpus.fingerprint)
    sampler = JointSampler.from_pretrained(plan.train.folder).beside(teacher)
    return Evaluator(
        teacher,
        joint_update(sampler, plan.columns.count, plan.columns.policy),
        Refresh(plan.columns.count, plan.columns.policy),
        None if judge is None else Judge(judge),
        plan.sampling(),
        read_rows(corpus.folder, "held_out")[1],
        plan.settings.shown,
    )


def measured_costs(plan: EvaluatePlan) -> tuple[dict[str, UpdateCost], dict[str, Any]]:
    """The cost of each update on a worker's device, and that machine."""
    resources = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
    return evaluator(plan, None).costs(plan.pairs), machine() | {"ray_resources": resources}


def sweep_table(plan: EvaluatePlan) -> SweepTable | None:
    """The sweep's trials, if the sampler is the best of a sweep."""
    if not plan.config.sweep.wanted:
        return None
    return SweepTable.model_validate_json((plan.out / "sweep" / "sweep.json").read_text())


def do_items(plan: EvaluatePlan, pool: cluster.Pool, log: ProgressLog | None) -> Collected:
    """Distribute the items that no earlier run has done, and collect the results of all."""
    items, folder = plan.items(), plan.items_folder
    storage.make_folder(folder)
    kept = saved.load_all(folder, items)
    progress = Progress("evaluate", len(items), "items", log)
    progress.skip(len(kept))
    if kept:
        print(f"evaluate: {len(kept)} of {len(items)} items are from an earlier run", flush=True)
    missing = [index for index in range(len(items)) if index not in kept]
    beat = plan.config.run.heartbeat_s
    for _ in spread(EvaluationActor, plan, missing, pool, progress, beat):
        progress.advance(1)
    results = saved.load_all(folder, items)
    if len(results) != len(items):
        raise RuntimeError(f"{len(items) - len(results)} items are missing in {shown(folder)}.")
    prompts = plan.sampling().prompts
    return Collected(
        ((items[index], result) for index, result in results.items()),
        None if prompts is None else len(prompts),
    )


def as_results(
    plan: EvaluatePlan,
    methods: list[MethodResult],
    costs: dict[str, UpdateCost],
    hardware: dict[str, Any],
) -> Results:
    """The numbers with everything that says how they were made; examples are added by the caller."""
    # Without weights: the driver's node may be too small for them.
    teacher = teachers.describe(plan.train.corpus.teacher)
    sampler = JointSampler.from_pretrained(plan.train.folder)
    return Results(
        config=shown_all(plan.config.model_dump()),
        versions=packages(),
        machine=hardware,
        teacher=TeacherCard(
            name=teacher.name,
            family=teacher.family,
            fingerprint=teacher.fingerprint,
            parameters=sum(p.numel() for p in teacher.model.parameters()),
        ),
        sampler=SamplerCard.of(sampler),
        judge=plan.settings.judge,
        kl_temperature=kl_temperature(plan.train.corpus.settings.temperature),
        costs={name: Cost(**cost.as_dict()) for name, cost in costs.items()},
        ceiling=next(r.mauve for r in methods if r.method == SEQUENTIAL[0]),
        methods=methods,
        items=identities(
            plan.sampling(),
            read_rows(plan.train.corpus.folder, "held_out")[1],
            plan.settings.samples,
            plan.settings.generation_seeds,
            (plan.settings.judge, plan.settings.judge_revision),
        ),
        differences=differences(methods),
        sweep=sweep_table(plan),
    )


def run(plan: EvaluatePlan, tracker: Tracker | None) -> dict[str, Any]:
    """Do all items and write results.json; returns the headline numbers."""
    prepare(plan)
    corpus = plan.train.corpus
    sampler = JointSampler.from_pretrained(plan.train.folder)
    sampler.check_fingerprint(teachers.describe(corpus.teacher))
    pool = cluster.pool(plan.settings.actors, corpus.teacher.device)
    # Measured on a worker's device, before the actors occupy the cores.
    measure = ray.remote(measured_costs).options(**pool.resources)
    with cluster.user_errors():
        costs, hardware = ray.get(measure.remote(plan))
    collected = do_items(plan, pool, None if tracker is None else tracker.log_progress)
    methods = collected.results(plan.pairs, costs, plan.settings.kmeans_seeds)
    results = as_results(plan, methods, costs, hardware)
    results.examples = collected.examples(plan.pairs, plan.settings.shown)
    plan.results.parent.mkdir(exist_ok=True)
    write_results(results, plan.results)
    storage.write(plan.results.with_name("summary.md"), markdown(results).encode())
    flat = results.flat()
    if tracker is not None:
        tracker.log_results(flat)
    return flat
