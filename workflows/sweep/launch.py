"""Running a sweep: Ray Tune around trainings, their objective, the table of trials.

The objective of a trial is its fidelity at a speed, or its speed at a fidelity
(``jointsampler/evaluation/worth.py``), with the measured cost of its own sampler.
Cut off and started again, finished trials stay and the others go on from their
checkpoints.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search import BasicVariantGenerator

from jointsampler import storage
from jointsampler.config import Range, SweepConfig
from jointsampler.errors import UserError
from jointsampler.evaluation.results import SweepTable, Trial
from jointsampler.evaluation.worth import nats_at_speed, speed_at_nats
from workflows import cluster
from workflows.sweep import room
from workflows.sweep.need import largest_need
from workflows.sweep.placement import Placement, place
from workflows.sweep.plan import VARIANT, SweepPlan, count, resolved
from workflows.tracking import Tracker, TrainReporter, child_run
from workflows.train.launch import CPU_SHARE, fit
from workflows.train.plan import TrainPlan

METRIC = "objective"  # less is better
PREFIX = "trial-"  # of a trial's name and folder


def run(plan: SweepPlan, tracker: Tracker) -> dict[str, Any]:
    """All trials, their table, and the best one's values."""
    begin = time.monotonic()
    plan.folder.mkdir(exist_ok=True)
    tracker.close_trials()  # of a driver that was killed
    placement = placement_of(plan)
    grid = tuner(plan, tracker, placement).fit()
    tracker.close_trials([key_of(plan, result) for result in grid if result.error is not None])
    trials = finished_trials(grid)
    if not trials:
        raise UserError("No trial of the sweep finished: the lines above say why.")
    trials.sort(key=lambda t: t.objective)
    settings = plan.settings
    table = SweepTable(
        objective=settings.objective,
        target=settings.speed if settings.objective == "nats_at_speed" else settings.nats,
        trials=trials,
    )
    storage.write_json(plan.table, table.model_dump())
    best = trials[0]
    tracker.log_results({"sweep/best_objective": best.objective, "sweep/trials": len(trials)})
    print(
        f"sweep: best of {len(trials)} is {best.values}, {table.objective_text(best)}", flush=True
    )
    return {
        "trials": len(trials),
        "failed": len(grid) - len(trials),
        "best": resolved(settings, best.values),
        "objective": best.objective,
        "seconds": round(time.monotonic() - begin, 1),
    }


def placement_of(plan: SweepPlan) -> Placement:
    """How many trials run at a time and where, said in one line."""
    settings = plan.settings
    on_gpu = cluster.pool(1, plan.corpus.teacher.device).gpus > 0
    need = largest_need(plan, on_gpu)
    made = place(
        settings.workers,
        count(settings),
        room.nodes(),
        need,
        on_gpu=on_gpu,
        gpu_bytes=room.gpu_bytes() if on_gpu and settings.workers == 1 else None,
        at_once=settings.at_once,
        cpu_share=CPU_SHARE,
    )
    share = f", {made.gpu_share:g} GPUs a worker" if on_gpu else ""
    once = f" and {need.shared / 2**30:.1f} GiB of teacher once per node" if need.shared else ""
    print(
        f"sweep: {made.at_once} of {count(settings)} trials at a time{share}; a worker takes about "
        f"{(need.device or need.host) / 2**30:.1f} GiB{once}",
        flush=True,
    )
    return made


def tuner(plan: SweepPlan, tracker: Tracker, placement: Placement) -> tune.Tuner:
    """A new one, or the one of a run that was cut off."""
    settings = plan.settings
    # For the driver of a trial; its workers have their own. Nodes that stay may have no CPU to give.
    resources = {cluster.DRIVERS if cluster.has(cluster.DRIVERS) else "CPU": 0.01}
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial,
            plan=plan,
            uri=tracker.uri,
            parent=tracker.outbox.run_id,
            gpu_share=placement.gpu_share,
        ),
        resources,
    )
    root = storage.join(plan.corpus.storage, "tune")
    path = str(storage.join(root, plan.key))
    if tune.Tuner.can_restore(path):
        print("sweep: going on where it was cut off", flush=True)
        return tune.Tuner.restore(
            path, trainable=trainable, resume_errored=True, resume_unfinished=True
        )
    return tune.Tuner(
        trainable,
        param_space=search_space(settings),
        tune_config=tune_config(plan, placement.at_once),
        run_config=tune.RunConfig(
            name=plan.key,
            storage_path=str(root),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )


def tune_config(plan: SweepPlan, at_once: int) -> tune.TuneConfig:
    """How trials are drawn, and which are stopped early; ``at_once`` of them run at a time."""
    settings, seed = plan.settings, plan.config.run.seed
    scheduler, search = None, BasicVariantGenerator(max_concurrent=at_once, random_state=seed)
    if settings.scheduler == "asha":
        scheduler = tune.schedulers.AsyncHyperBandScheduler(
            time_attr="step",  # Tune's own count of reports starts again after a restore
            grace_period=settings.grace,
            max_t=settings.steps,
            stop_last_trials=False,  # a trial that reaches the end reports its best once more
        )
    if settings.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        search = OptunaSearch(metric=METRIC, mode="min", seed=seed)
    return tune.TuneConfig(
        metric=METRIC,
        mode="min",
        num_samples=1 if settings.search == "grid" else settings.trials,
        max_concurrent_trials=at_once if settings.search == "optuna" else None,
        search_alg=search,
        scheduler=scheduler,
        trial_name_creator=lambda t: f"{PREFIX}{t.trial_id}",
        trial_dirname_creator=lambda t: f"{PREFIX}{t.trial_id}",
    )


def search_space(settings: SweepConfig) -> dict[str, Any]:
    """The search space as Tune takes it."""
    every = tune.grid_search if settings.search == "grid" else tune.choice
    space: dict[str, Any] = {}
    if settings.variants:
        space[VARIANT] = every(list(settings.variants))
    for key, choice in settings.space.items():
        if isinstance(choice, Range):
            draw = tune.loguniform if choice.log else tune.uniform
            space[key] = draw(choice.low, choice.high)
        else:
            space[key] = every(choice)
    return space


def run_trial(
    values: dict[str, Any], plan: SweepPlan, uri: str, parent: str, gpu_share: float
) -> None:
    """One training, and its child run in MLflow; Tune calls it in a process of its own."""
    os.environ |= cluster.ENVIRONMENT
    training = training_of(plan, values, tune.get_context().get_trial_id())
    with child_run(uri, plan.out, parent, training.key + training.trial, values) as outbox:
        reporters = [
            ObjectiveReporter(plan.settings),
            TrainReporter(
                outbox, training.settings.steps, training.curve, name=training.folder.name
            ),
        ]
        metrics = fit(training, reporters, plan.settings.workers, gpu_share)
        # Reported here too, because a training that had ended before reports nothing any more.
        final = {name: v for name, v in metrics.items() if isinstance(v, int | float)}
        tune.report({**final, METRIC: objective(metrics, plan.settings, "best_"), "finished": 1})


def training_of(plan: SweepPlan, values: dict[str, Any], trial_id: str) -> TrainPlan:
    # A search may draw the same values twice; a grid does not, and its folders keep plain names.
    return plan.trial(values, "" if plan.settings.search == "grid" else f"-{trial_id}")


def key_of(plan: SweepPlan, result: tune.Result) -> str:
    """The key of a trial's run in MLflow."""
    training = training_of(plan, result.config, Path(result.path).name.removeprefix(PREFIX))
    return training.key + training.trial


class ObjectiveReporter(TuneReportCallback):
    """Passes validations on to Tune with their objective; other reports go to MLflow alone."""

    def __init__(self, settings: SweepConfig):
        super().__init__()
        self.settings = settings

    def after_report(self, run_context: Any, metrics: list[dict], checkpoint: Any) -> None:
        if "cost_ratio" in metrics[0]:
            worth = {METRIC: objective(metrics[0], self.settings)}
            super().after_report(run_context, [metrics[0] | worth], checkpoint)


def at_each_k(metrics: dict[str, Any], name: str) -> dict[int, float]:
    """k -> the metric ``name_kK``."""
    start = f"{name}_k"
    return {int(key[len(start) :]): v for key, v in metrics.items() if key.startswith(start)}


def objective(metrics: dict[str, Any], settings: SweepConfig, prefix: str = "") -> float:
    """The worth of a validation, less is better: nats per token, or minus tokens per unit of cost."""
    nats, ratio = at_each_k(metrics, f"{prefix}nats"), metrics["cost_ratio"]
    if settings.objective == "nats_at_speed":
        return nats_at_speed(nats, ratio, settings.speed)
    return -speed_at_nats(nats, ratio, settings.nats)


def finished_trials(grid: tune.ResultGrid) -> list[Trial]:
    """The trials that have an objective; the others are printed with their error."""
    trials = []
    for result in grid:
        metrics = result.metrics or {}
        if result.error is not None or METRIC not in metrics:
            known = cluster.user_error_in(result.error) if result.error else None
            print(f"sweep: trial {result.config} failed: {known or result.error}", flush=True)
            continue
        prefix = "best_" if metrics.get("finished") else ""
        trials.append(
            Trial(
                values=result.config,
                objective=metrics[METRIC],
                ratio=metrics["cost_ratio"],
                nats=at_each_k(metrics, f"{prefix}nats"),
                captured=at_each_k(metrics, f"{prefix}captured"),
                steps=int(metrics["step"]),
                stopped_early=not metrics.get("finished"),
            )
        )
    return trials
