"""An interrupted, resumed or sharded training gives the same sampler as one that was left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from jointsampler import JointSampler
from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, wait_until

pytestmark = pytest.mark.slow

# Long enough to be caught in the middle, in float32 so that equality means equality.
TRAIN = [
    "train.steps=240", "train.save_every=40", "train.report_every=40", "train.validate_every=120",
    "train.precision=float32", "train.validate_k=[2]", "sampler.depth=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(head: Head, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    finish(start(head, "corpus", out), out, "corpus")
    return out


@pytest.fixture
def out(corpus: Path, tmp_path: Path) -> Path:
    """A run of its own on the one corpus."""
    return Path(shutil.copytree(corpus, tmp_path / "run"))


def trained(head: Head, out: Path, *overrides: str) -> dict:
    """The results of a training that is left alone."""
    finish(start(head, "train", out, *TRAIN, *overrides), out, "train")
    return results(out)


def results(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())["stages"]["train"]["results"]


def saved(out: Path) -> list[Path]:
    """Checkpoints so far, oldest first."""
    return sorted((out / "train").glob("*/step_*"))


def weights(out: Path) -> dict:
    return load_file(out / "sampler" / "model.safetensors")


def distance(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_a_killed_run_with_one_worker_ends_bit_for_bit_as_if_it_had_not_been(
    head: Head, corpus: Path, out: Path, tmp_path: Path
):
    alone = ["train.workers=1", "train.cache_gib=1"]
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    trained(head, other, *alone)
    driver = start(head, "train", out, *TRAIN, *alone)
    wait_until(lambda: len(saved(out)) >= 2, 120, "two checkpoints")
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not head.workers("RayTrainWorker"), 60, "its workers end")
    assert not (out / "sampler").exists()
    log = finish(start(head, "train", out, *TRAIN, *alone), out, "train")
    assert "train: going on from step" in log
    assert distance(weights(out), weights(other)) == 0


def test_a_killed_worker_costs_the_steps_since_the_last_counted_checkpoint(
    head: Head, corpus: Path, out: Path, tmp_path: Path
):
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    whole = trained(head, other, "train.workers=2")
    driver = start(head, "train", out, *TRAIN, "train.workers=2")
    # The third checkpoint is there, so the second has been counted.
    wait_until(lambda: any(p.name >= "step_000120" for p in saved(out)), 120, "three checkpoints")
    victim, _ = head.workers("RayTrainWorker")[0]
    victim.kill()
    log = finish(driver, out, "train")
    assert "train: going on from step" in log
    assert results(out)["loss"] == pytest.approx(whole["loss"], rel=1e-3)
    assert distance(weights(out), weights(other)) < 1e-3


def test_a_run_goes_on_with_another_number_of_workers_and_says_so(head: Head, out: Path):
    driver = start(head, "train", out, *TRAIN, "train.workers=2")
    wait_until(lambda: len(saved(out)) >= 2, 120, "two checkpoints")
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not head.workers("RayTrainWorker"), 60, "its workers end")
    log = finish(start(head, "train", out, *TRAIN, "train.workers=1"), out, "train")
    assert "on 1 workers" in log and "fresh optimizer" not in log
    assert results(out)["step"] == 240


def test_every_zero_stage_takes_the_same_steps(head: Head, corpus: Path, tmp_path: Path):
    losses = {}
    for stage in range(4):
        out = Path(shutil.copytree(corpus, tmp_path / f"zero{stage}"))
        # Width 192: below, ZeRO-3 would keep every weight whole and prove nothing.
        short = ["train.steps=40", "train.validate_every=20", "train.optimizer=adamw"]
        short += ["sampler.width=192"]
        losses[stage] = trained(head, out, "train.workers=2", f"train.zero_stage={stage}", *short)
        JointSampler.from_pretrained(out / "sampler")
    for stage in (1, 2, 3):
        assert losses[stage]["loss"] == pytest.approx(losses[0]["loss"], rel=1e-4), stage
        captured = "best_captured_k2"
        assert losses[stage][captured] == pytest.approx(losses[0][captured], abs=1e-3), stage


def test_a_training_that_diverges_says_so_and_keeps_its_last_good_checkpoint(head: Head, out: Path):
    wild = ["train.optimizer=adamw", "train.lr=1e30", "train.clip=1e30", "train.max_failures=0"]
    driver = start(head, "train", out, *TRAIN, "train.workers=1", *wild)
    assert driver.wait(180) == 2
    # Lines that Ray forwards from its processes may follow the sentence.
    said = [line for line in (out / "train.log").read_text().splitlines() if line[:1] == "j"]
    start_of = "jointsampler: Training diverged: the loss is"
    assert len(said) == 1 and said[0].startswith(start_of) and "train.lr" in said[0]
    assert not (out / "sampler").exists()


def test_a_warm_start_begins_where_the_other_ended_and_patience_ends_it(
    head: Head, corpus: Path, out: Path, tmp_path: Path
):
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    before = trained(head, other, "train.workers=1")
    slow = ["train.muon_lr=1e-9", "train.lr=1e-9", "train.patience=2", "train.validate_every=40"]
    after = trained(
        head,
        out,
        "train.workers=1",
        f"train.warm_start={other / 'sampler'}",
        *slow,
    )
    assert after["best_captured_k2"] == pytest.approx(before["best_captured_k2"], abs=1e-3)
    assert after["step"] < 240
    assert "validations, stopped at step" in (out / "train.log").read_text()
