"""Schedulers and searches with real trials: ASHA ends the hopeless ones, Optuna draws where it may."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jointsampler.evaluation.results import SweepTable
from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, wait_until

pytestmark = pytest.mark.slow

TRIALS = [
    "sweep.at_once=1", "sweep.speed=1.2", "train.workers=1", "train.validate_k=[2]",
    "train.validate_every=4", "train.save_every=4", "train.warmup_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(head: Head, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    finish(start(head, "corpus", out, "corpus.actors=1"), out, "corpus")
    return out


def swept(head: Head, corpus: Path, out: Path, *overrides: str) -> tuple[SweepTable, list]:
    """(the table, the trials' MLflow runs) of a sweep on a copy of ``corpus``."""
    shutil.copytree(corpus, out)
    uri = f"sqlite:///{out / 'mlflow.db'}"
    command = [*TRIALS, *overrides, f"run.mlflow_uri={uri}"]
    finish(start(head, "sweep", out, *command), out, "sweep", 420)
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("jointsampler").experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    # The copied database also holds the corpus stage's run, of another folder.
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in children}
    assert client.get_run(parent).info.status == "FINISHED"
    return SweepTable.model_validate_json((out / "sweep" / "sweep.json").read_text()), children


def test_asha_ends_trials_that_fall_behind_and_none_is_left_running(
    head: Head, corpus: Path, tmp_path: Path
):
    # The first trial is a good one; the others' steps are so large that they ruin the sampler.
    table, runs = swept(
        head, corpus, tmp_path / "run", "sweep.scheduler=asha", "sweep.grace=4", "sweep.steps=12",
        "sweep.space={train.muon_lr: [0.015, 1.0, 2.0]}",
    )  # fmt: skip
    best, *others = table.trials
    assert best.values == {"train.muon_lr": 0.015}
    assert (best.steps, best.stopped_early) == (12, False)
    assert [(trial.steps, trial.stopped_early) for trial in others] == [(4, True)] * 2
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED", "KILLED"]
    wait_until(lambda: not head.workers("RayTrainWorker"), 60, "the workers of ended trials end")


def test_optuna_draws_each_trial_from_the_range(head: Head, corpus: Path, tmp_path: Path):
    pytest.importorskip("optuna")
    table, runs = swept(
        head, corpus, tmp_path / "run", "sweep.search=optuna", "sweep.trials=3", "sweep.steps=4",
        "sweep.space={train.muon_lr: {low: 0.001, high: 0.1, log: true}, train.k_max: [2, 4]}",
    )  # fmt: skip
    drawn = [trial.values["train.muon_lr"] for trial in table.trials]
    assert len(set(drawn)) == 3 and all(0.001 <= value <= 0.1 for value in drawn)
    assert {trial.values["train.k_max"] for trial in table.trials} <= {2, 4}
    assert not any(trial.stopped_early for trial in table.trials)
    assert {run.info.status for run in runs} == {"FINISHED"}
    logged = {run.data.params["train.muon_lr"] for run in runs}
    assert logged == {str(value) for value in drawn}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["stages"]["sweep"]["results"]["best"] == table.trials[0].values
