"""Sweep: Ray Tune tries samplers and trainings and keeps what buys most.

    python workflows/sweep.py --config workflows/configs/sweep.yaml --out DIR

Each trial is a Ray Train run on the one corpus, told apart by dotted config keys
(sampler.width, train.k_max, ...). Trials are judged by what they buy, fidelity
at a speed or speed at a fidelity (``jointsampler/measure/worth.py``), with the
cost of their own sampler pass. Cut off and started again, finished trials stay
and the others go on from their checkpoints. The pipeline then trains the best
to the end.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from jointsampler import storage
from jointsampler.config.schema import Config, Range, SweepConfig, changed
from jointsampler.corpus.manifest import verify_corpus
from jointsampler.errors import UserError
from jointsampler.evaluation.results import SweepTable, Trial
from jointsampler.evaluation.worth import nats_at_speed, speed_at_nats
from workflows import cluster, corpus, entry, train
from workflows.stage import digest, require, run_once, write_json
from workflows.tracking import Tracker, TrainReporter, child_run, open_run

METRIC = "objective"  # less is better
SWEPT = ("sampler.", "train.")  # the corpus is made once, before the sweep
# Keys of train that do not make another training, or that the sweep sets itself, and who has them.
NOT_SWEPT = {
    "train.steps": "sweep.steps is the length of a trial",
    "train.workers": "sweep.workers is the workers of a trial",
    "train.min_workers": "a trial has sweep.workers workers",
    "train.report_every": "it changes no training",
    "train.max_failures": "it changes no training",
}
VARIANT = "variant"  # beside the space's keys: the name of one of sweep.variants


@dataclass(frozen=True)
class SweepPlan:
    out: Path
    corpus: corpus.CorpusPlan
    config: Config  # of a trial, before its values are put in

    stage = "sweep"

    @property
    def settings(self) -> SweepConfig:
        return self.config.sweep

    @property
    def folder(self) -> Path:
        return self.out / "sweep"

    @property
    def table(self) -> Path:
        return self.folder / "sweep.json"

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(exclude={"at_once", "workers"})
        return digest(self.trial({}).key, settings)

    def intact(self) -> bool:
        return self.table.exists()

    def trial(self, values: dict[str, Any], name: str = "") -> train.TrainPlan:
        """The training of one trial; UserError where a value fits no key."""
        made = train.plan_on(
            self.corpus,
            changed(self.config, resolved(self.settings, values)),
            self.folder / f"{digest(values)}{name}",
        )
        return dataclasses.replace(made, trial=name)


def resolved(settings: SweepConfig, values: dict[str, Any]) -> dict[str, Any]:
    """A trial's values with its variant's name replaced by what it stands for."""
    own = {key: value for key, value in values.items() if key != VARIANT}
    return settings.variants[values[VARIANT]] | own if VARIANT in values else own


def values_of(choice: list[Any] | Range) -> list[Any]:
    """All of a list; of a range its ends and what lies between, which an integer key refuses."""
    if not isinstance(choice, Range):
        return choice
    return [choice.low, choice.low + 0.37 * (choice.high - choice.low), choice.high]


def plan(config: Config, out: Path) -> SweepPlan:
    """What would be swept; every trial of a grid, or else every value, is tried on the schema here."""
    settings = config.sweep
    if not settings.wanted:
        raise UserError(
            "sweep.space is empty, and so are the variants: name config keys and their values, for "
            "example 'sweep.space={sampler.width: [96, 192], train.k_max: [4, 8]}'."
        )
    trial = changed(config, {"train.steps": settings.steps, "train.min_workers": 0})
    made = SweepPlan(out, corpus.plan(config, out), trial)
    for name, values in settings.variants.items():
        for key in values:
            check_key(key, f"sweep.variants.{name}")
            if key in settings.space:
                raise UserError(f"sweep.variants.{name} sets {key}, which sweep.space varies.")
    for key, choice in settings.space.items():
        check_key(key, "sweep.space")
        if isinstance(choice, Range) and settings.search == "grid":
            raise UserError(
                f"sweep.space.{key} is a range, and a grid needs values: list them, or set "
                "sweep.search=random."
            )
        if not values_of(choice):
            raise UserError(f"sweep.space.{key} holds no values.")
    if settings.search == "grid":
        check_grid(made)
    else:
        check_values(made)
    if settings.scheduler == "asha" and settings.grace > settings.steps:
        raise UserError(
            f"sweep.grace={settings.grace} exceeds sweep.steps={settings.steps}: no trial would ever be stopped."
        )
    if settings.search == "optuna":
        optuna_search()
    return made


def axes_of(settings: SweepConfig) -> dict[str, list[Any]]:
    """Every key that trials differ in, and its values."""
    axes = {key: values_of(choice) for key, choice in settings.space.items()}
    return axes | ({VARIANT: list(settings.variants)} if settings.variants else {})


def check_values(made: SweepPlan) -> None:
    """UserError where a value can be in no trial, whatever the other keys hold."""
    axes = axes_of(made.settings)
    for key, values in axes.items():
        others = {name: choice for name, choice in axes.items() if name != key}
        for value in values:
            told = None
            for point in itertools.product(*others.values()):
                try:
                    made.trial({key: value} | dict(zip(others, point, strict=True)))
                    break
                except UserError as error:
                    told = told or error
            else:
                raise told


def check_grid(made: SweepPlan) -> None:
    """UserError where a point of the grid cannot be, or two of them are one training."""
    axes = axes_of(made.settings)
    seen: dict[str, dict[str, Any]] = {}
    for point in itertools.product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        other = seen.setdefault(made.trial(values).key, values)
        if other is not values:
            raise UserError(
                f"Two trials of the sweep are the same training, {other} and {values}: leave one out."
            )


def check_key(key: str, where: str) -> None:
    if not key.startswith(SWEPT):
        raise UserError(
            f"{where} cannot hold {key!r}: only keys of sampler and train are swept, on one corpus."
        )
    if key in NOT_SWEPT:
        raise UserError(f"{where} cannot hold {key!r}: {NOT_SWEPT[key]}.")


def count(settings: SweepConfig) -> int:
    """How many trials a sweep has."""
    if settings.search != "grid":
        return settings.trials
    points = math.prod(len(values_of(choice)) for choice in settings.space.values())
    return points * max(1, len(settings.variants))


def optuna_search() -> Any:
    """UserError where optuna is not installed."""
    try:
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(metric=METRIC, mode="min", seed=0)
    except ImportError:
        raise UserError(
            "sweep.search=optuna needs the package optuna: pip install 'jointsampler[optuna]'."
        ) from None


def space(settings: SweepConfig) -> dict[str, Any]:
    """The search space in Tune's words."""
    words = {}
    if settings.variants:
        every = tune.grid_search if settings.search == "grid" else tune.choice
        words[VARIANT] = every(list(settings.variants))
    for key, choice in settings.space.items():
        if isinstance(choice, Range):
            draw = tune.loguniform if choice.log else tune.uniform
            words[key] = draw(choice.low, choice.high)
        elif settings.search == "grid":
            words[key] = tune.grid_search(choice)
        else:
            words[key] = tune.choice(choice)
    return words


def objective(metrics: dict[str, float], settings: SweepConfig, prefix: str = "") -> float:
    """What a validation is worth, less is better: nats per token, or minus tokens per unit of cost."""
    start = f"{prefix}nats_k"
    nats = {int(name[len(start) :]): v for name, v in metrics.items() if name.startswith(start)}
    ratio, first = metrics["pass_cost_ratio"], metrics.get("pass_cost_first", 0.0)
    if settings.objective == "nats_at_speed":
        return nats_at_speed(nats, ratio, settings.speed, first)
    return -speed_at_nats(nats, ratio, settings.nats, first)


class ObjectiveReporter(TuneReportCallback):
    """Hands validations on to Tune with their objective; reports between them are MLflow's alone."""

    def __init__(self, settings: SweepConfig):
        super().__init__()
        self.settings = settings

    def after_report(self, run_context: Any, metrics: list[dict], checkpoint: Any) -> None:
        if "pass_cost_ratio" in metrics[0]:
            worth = {METRIC: objective(metrics[0], self.settings)}
            super().after_report(run_context, [metrics[0] | worth], checkpoint)


def trial(values: dict[str, Any], plan: SweepPlan, uri: str, parent: str) -> None:
    """What Tune runs per trial: one training, and its child run in MLflow."""
    os.environ |= cluster.ENVIRONMENT
    # A search may draw the same values twice; a grid does not, and its folders keep plain names.
    name = "" if plan.settings.search == "grid" else f"-{tune.get_context().get_trial_id()}"
    train_plan = plan.trial(values, name)
    with child_run(uri, plan.out, parent, train_plan.key + name, values) as outbox:
        reporters = [
            ObjectiveReporter(plan.settings),
            TrainReporter(outbox, train_plan.settings.steps, name=train_plan.folder.name),
        ]
        metrics = train.fit(train_plan, reporters, plan.settings.workers)
        # Also where the training had been finished before, and so reports nothing any more.
        final = {name: v for name, v in metrics.items() if isinstance(v, int | float)}
        tune.report({**final, METRIC: objective(metrics, plan.settings, "best_"), "finished": 1})


def tuner(plan: SweepPlan, tracker: Tracker) -> tune.Tuner:
    """New, or as a run that was cut off left it."""
    settings = plan.settings
    # Of the driver of a trial; its workers ask for their own. Nodes that stay may have no CPU to give.
    resources = {cluster.DRIVERS if cluster.has(cluster.DRIVERS) else "CPU": 0.01}
    trainable = tune.with_resources(
        tune.with_parameters(trial, plan=plan, uri=tracker.uri, parent=tracker.outbox.run_id),
        resources,
    )
    root = storage.join(plan.corpus.storage, "tune")
    path = str(storage.join(root, plan.key))
    if tune.Tuner.can_restore(path):
        print("sweep: going on where it was cut off", flush=True)
        return tune.Tuner.restore(
            path, trainable=trainable, resume_errored=True, resume_unfinished=True
        )
    pool = cluster.pool(0, plan.corpus.teacher.device)
    together = settings.at_once or max(1, pool.size // (settings.workers or pool.size))
    scheduler = None
    if settings.scheduler == "asha":
        # By the training's own step: Tune's count of reports starts again after a restore.
        scheduler = tune.schedulers.AsyncHyperBandScheduler(
            time_attr="step",
            grace_period=settings.grace,
            max_t=settings.steps,
            stop_last_trials=False,  # who reaches the end reports its best once more
        )
    return tune.Tuner(
        trainable,
        param_space=space(settings),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=1 if settings.search == "grid" else settings.trials,
            max_concurrent_trials=together,
            search_alg=optuna_search() if settings.search == "optuna" else None,
            scheduler=scheduler,
            trial_name_creator=lambda t: f"trial-{t.trial_id}",
            trial_dirname_creator=lambda t: f"trial-{t.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=plan.key,
            storage_path=str(root),
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    )


def run(plan: SweepPlan, tracker: Tracker) -> dict[str, Any]:
    """All trials, their table, and the best one's values."""
    begin = time.monotonic()
    verify_corpus(plan.corpus.folder)
    plan.folder.mkdir(exist_ok=True)
    tracker.close_orphans()
    grid = tuner(plan, tracker).fit()
    tracker.close_orphans()  # those that the scheduler stopped
    trials = []
    for result in grid:
        metrics = result.metrics or {}
        if result.error is not None or METRIC not in metrics:
            told = cluster.user_error_in(result.error) if result.error else None
            print(f"sweep: trial {result.config} failed: {told or result.error}", flush=True)
            continue
        trials.append(row(plan, result.config, metrics))
    if not trials:
        raise UserError("No trial of the sweep finished: the lines above say why.")
    trials.sort(key=lambda t: t.objective)
    settings = plan.settings
    table = SweepTable(
        objective=settings.objective,
        target=settings.speed if settings.objective == "nats_at_speed" else settings.nats,
        trials=trials,
    )
    write_json(plan.table, table.model_dump())
    best = trials[0]
    tracker.log_results({"sweep/best_objective": best.objective, "sweep/trials": len(trials)})
    print(f"sweep: best of {len(trials)} is {best.values}, {table.told(best)}", flush=True)
    return {
        "trials": len(trials),
        "failed": len(grid) - len(trials),
        "best": resolved(settings, best.values),
        "objective": best.objective,
        "seconds": round(time.monotonic() - begin, 1),
    }


def row(plan: SweepPlan, values: dict[str, Any], metrics: dict[str, Any]) -> Trial:
    prefix = "best_" if metrics.get("finished") else ""

    def at_k(name: str) -> dict[int, float]:
        start = f"{prefix}{name}_k"
        return {int(key[len(start) :]): v for key, v in metrics.items() if key.startswith(start)}

    return Trial(
        values=values,
        objective=metrics[METRIC],
        pass_cost_ratio=metrics["pass_cost_ratio"],
        pass_cost_first=metrics["pass_cost_first"],
        nats=at_k("nats"),
        captured=at_k("captured"),
        steps=int(metrics["step"]),
        stopped_early=not metrics.get("finished"),
    )


def chosen(config: Config, results: dict[str, Any]) -> Config:
    """The configuration that the sweep's best trial had, with the training at its full length."""
    made = changed(config, results["best"])
    if made.corpus.anchors:  # the corpus stays the one that the sweep was on, whichever k_max won
        made = changed(made, {"corpus.depths": config.corpus.depths or config.train.k_max - 1})
    return made


def settled(config: Config, out: Path) -> Config:
    """What the stages after a sweep go by: its best, or ``config`` itself without a sweep."""
    return chosen(config, require(plan(config, out))) if config.sweep.wanted else config


def main() -> None:
    config, out = entry.parse(__doc__)
    sweep_plan = plan(config, out)
    require(sweep_plan.corpus)
    cluster.connect()
    with open_run(config, out) as tracker:
        run_once(sweep_plan, lambda: run(sweep_plan, tracker))


if __name__ == "__main__":
    from workflows import sweep  # under its own name, as the workers import it

    entry.run(sweep.main)
