"""Running one stage, or the pipeline: its inputs, the Ray cluster, the MLflow run.

Every stage is planned, and every mistake that a plan can find is found, before
any work starts. A finished stage with the same inputs is skipped, an unfinished
one goes on. A corpus is verified once: by the stage that makes it, or, where a
later stage is run alone, when that stage requires it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jointsampler.config import Config
from workflows import cluster, corpus, evaluation, report
from workflows.forecast import expected_seconds
from workflows.lease import held
from workflows.stage import Plan, recorded_times, require, run_once
from workflows.sweep import launch as sweep_launch
from workflows.sweep import plan as sweep_plan
from workflows.tracking import Tracker, open_run, ui_command
from workflows.train import launch as train_launch
from workflows.train import plan as train_plan


def run(stage: str, config: Config, out: Path) -> None:
    """Run ``stage`` (a name in ``RUNS``) as the only run in its folders."""
    with held(out, corpus.home(config, out)):
        RUNS[stage](config, out)


def staged(
    config: Config, plan: Plan, run: Callable[[], dict[str, Any]], tracker: Tracker
) -> dict[str, Any]:
    """The results of a stage, run at most once; its time and its forecast go to MLflow."""
    results = run_once(plan, run, lambda: expected_seconds(plan, config, cluster.named_resources()))
    times = recorded_times(plan.out)[plan.stage].items()
    tracker.log_results({f"time/{plan.stage}_{key}": value for key, value in times})
    return results


def made(config: Config, plan: Plan, tracker: Tracker) -> dict[str, Any]:
    """The results of a stage that works on the Ray cluster."""
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "corpus": lambda: corpus.run(plan, tracker.log_progress, config.run.heartbeat_s),
        "sweep": lambda: sweep_launch.run(plan, tracker),
        "train": lambda: train_launch.run(plan, tracker.train_reporter(plan.curve)),
        "evaluate": lambda: evaluation.run(plan, tracker),
    }
    cluster.connect()
    return staged(config, plan, work[plan.stage], tracker)


def settled(config: Config, out: Path) -> Config:
    """``config`` with the values of the sweep's best trial, if it has a sweep."""
    if not config.sweep.wanted:
        return config
    return sweep_plan.chosen(config, require(sweep_plan.plan(config, out)))


def run_corpus(config: Config, out: Path) -> None:
    plan = corpus.plan(config, out)
    with open_run(config, out) as tracker:
        corpus.prepare(plan)
        made(config, plan, tracker)


def run_sweep(config: Config, out: Path) -> None:
    plan = sweep_plan.plan(config, out)
    require(plan.corpus)
    with open_run(config, out) as tracker:
        made(config, plan, tracker)


def run_train(config: Config, out: Path) -> None:
    plan = train_plan.plan(settled(config, out), out)
    require(plan.corpus)
    with open_run(config, out) as tracker:
        made(config, plan, tracker)


def run_evaluate(config: Config, out: Path) -> None:
    plan = evaluation.plan(settled(config, out), out)
    require(plan.train.corpus)
    require(plan.train)
    with open_run(config, out) as tracker:
        made(config, plan, tracker)


def run_report(config: Config, out: Path) -> None:
    plan = report.plan(settled(config, out), out)
    require(plan.evaluate)
    with open_run(config, out) as tracker:
        run_once(plan, lambda: report.run(plan, tracker))


def run_pipeline(config: Config, out: Path) -> None:
    planned = report.plan(config, out)
    sweep = sweep_plan.plan(config, out) if config.sweep.wanted else None
    evaluation.prepare(planned.evaluate)
    with open_run(config, out) as tracker:
        corpus.prepare(planned.evaluate.train.corpus)
        made(config, planned.evaluate.train.corpus, tracker)
        if sweep is not None:
            best = made(config, sweep, tracker)
            planned = report.plan(sweep_plan.chosen(config, best), out)
        made(config, planned.evaluate.train, tracker)
        made(config, planned.evaluate, tracker)
        run_once(planned, lambda: report.run(planned, tracker))
    print(f"report: {planned.page}")
    print(f"runs:   {ui_command(tracker.uri)}")


RUNS: dict[str, Callable[[Config, Path], None]] = {
    "corpus": run_corpus,
    "sweep": run_sweep,
    "train": run_train,
    "evaluate": run_evaluate,
    "report": run_report,
    "pipeline": run_pipeline,
}
