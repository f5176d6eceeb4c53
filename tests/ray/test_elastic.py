"""A training that may have fewer workers goes on when a node is lost, and grows when one joins."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, end, wait_until

pytestmark = pytest.mark.slow

ELASTIC = [
    "train.workers=2", "train.min_workers=1", "train.save_every=40", "train.report_every=40",
    "train.validate_every=120", "train.validate_k=[2]",
]  # fmt: skip


@pytest.fixture(scope="module")
def head_alone() -> Iterator[Head]:
    """A head that takes no work; the nodes, with room for one worker each, are the tests' own."""
    with Head(cpus=0) as head:
        yield head


@pytest.fixture(scope="module")
def corpus(head_alone: Head, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    node = head_alone.add_node(cpus=1)
    finish(start(head_alone, "corpus", out, "corpus.actors=1"), out, "corpus")
    end(node)
    return out


@pytest.fixture
def out(corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "run"))


def test_a_training_that_loses_a_node_goes_on_without_it(head_alone: Head, out: Path):
    nodes = [head_alone.add_node(cpus=1), head_alone.add_node(cpus=1)]
    driver = start(head_alone, "train", out, *ELASTIC, "train.steps=600")
    # The third checkpoint is there, so the second has been counted.
    wait_until(lambda: list(out.glob("train/*/step_000120")), 180, "three checkpoints")
    _, lost = head_alone.workers("RayTrainWorker")[0]
    assert lost in nodes and driver.poll() is None
    os.killpg(lost.pid, signal.SIGKILL)  # the raylet and its workers
    log = finish(driver, out, "train", 360)
    assert "on 1 workers, with a fresh optimizer" in log
    results = json.loads((out / "manifest.json").read_text())["stages"]["train"]["results"]
    assert (results["workers"], results["step"]) == (1, 600)
    for node in nodes:
        end(node)


def test_a_training_takes_a_node_that_joins(head_alone: Head, out: Path):
    nodes = [head_alone.add_node(cpus=1)]
    driver = start(head_alone, "train", out, *ELASTIC, "train.steps=1000000")
    wait_until(lambda: list(out.glob("train/*/step_*")), 180, "a checkpoint with one worker")
    nodes.append(head_alone.add_node(cpus=1))
    log = out / "train.log"
    grown = "on 2 workers, with a fresh optimizer"
    try:
        wait_until(lambda: grown in log.read_text(), 180, "two workers")
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        for node in nodes:
            end(node)
