"""A sweep on a real head: killed, restored, ranked, and shown in one report."""

from __future__ import annotations

import json
import os
import signal

import pytest
from mlflow.tracking import MlflowClient

from jointsampler import JointSampler
from jointsampler.evaluation.results import read_results
from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, wait_until

pytestmark = pytest.mark.slow

SWEEP = [
    "sweep.space={sampler.width: [32, 64], train.k_max: [2, 4]}", "sweep.steps=8",
    "sweep.at_once=2", "train.validate_every=4", "train.validate_k=[2, 4]", "train.save_every=4",
    "evaluate.judge=none", "train.workers=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def swept(head: Head, tmp_path_factory):
    """The pipeline with a 2 x 2 sweep, its driver killed once some trial has finished, started again."""
    out = tmp_path_factory.mktemp("swept")
    uri = f"run.mlflow_uri=sqlite:///{out / 'mlflow.db'}"
    driver = start(head, "pipeline", out, *SWEEP, uri)
    done = wait_until(
        lambda: list((out / "sweep").glob("*/model.safetensors")), 240, "a trial ends"
    )
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(done) < 4, "too late to test a restore"
    kept = {path: path.stat().st_mtime_ns for path in done}
    log = finish(start(head, "pipeline", out, *SWEEP, uri), out, "pipeline", 420)
    return out, log, kept


def children(out):
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("jointsampler").experiment_id])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    return parent, [run for run in runs if run.info.run_id != parent.info.run_id]


def test_it_goes_on_where_it_was_killed(swept):
    out, log, _ = swept
    assert "sweep: going on where it was cut off" in log
    assert "corpus: nothing changed, skipped" in log
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["stages"]["sweep"]["results"]["trials"],) == (4,)


def test_the_best_trial_is_what_is_trained_to_the_end(swept):
    out = swept[0]
    manifest = json.loads((out / "manifest.json").read_text())["stages"]
    best = manifest["sweep"]["results"]["best"]
    config = JointSampler.from_pretrained(out / "sampler").config
    assert (config.width, config.k_max) == (best["sampler.width"], best["train.k_max"])
    assert manifest["train"]["results"]["step"] == 12  # train.steps, not the trial's 8


def test_the_report_shows_every_trial_best_first(swept):
    out = swept[0]
    table = read_results(out / "report" / "results.json").sweep
    assert [t.objective for t in table.trials] == sorted(t.objective for t in table.trials)
    assert {tuple(t.values.values()) for t in table.trials} == {(32, 2), (32, 4), (64, 2), (64, 4)}
    assert all(t.ratio > 0 and set(t.nats) == {2, 4} for t in table.trials)
    page = (out / "report" / "index.html").read_text()
    assert "The sweep" in page and page.count(" (best)</th>") == 1


def test_mlflow_shows_one_parent_its_children_and_nothing_left_running(swept):
    parent, trials = children(swept[0])
    assert parent.info.status == "FINISHED"
    assert len(trials) == 4
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert all("train/nats_k2" in run.data.metrics for run in trials)


def test_the_best_sampler_is_registered_under_its_alias(swept):
    client = MlflowClient(f"sqlite:///{swept[0] / 'mlflow.db'}")
    version = client.get_model_version_by_alias("jointsampler", "best")
    assert version.run_id == children(swept[0])[0].info.run_id
