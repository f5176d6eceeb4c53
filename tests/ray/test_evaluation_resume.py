"""An evaluation whose driver is killed goes on with the items that are done."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jointsampler.evaluation.results import read_results
from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, wait_until

pytestmark = pytest.mark.slow

# Twenty-one items; no judge, which is fetched.
EVALUATE = [
    "evaluate.judge=none", "evaluate.samples=12", "evaluate.samples_per_item=3",
    "evaluate.ks=[4]", "evaluate.generation_seeds=1", "evaluate.actors=3",
    "corpus.actors=2", "train.workers=1", "train.warm_start=tiny", "train.steps=0",
    "sampler.width=192", "sampler.mlp=1024", "sampler.depth=3",
]  # fmt: skip


def items(out: Path) -> dict[str, int]:
    """Name -> time of writing, of every item that is done."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("evaluate/*/item-*.json")}


def test_a_killed_driver_keeps_the_items_that_are_done(three_nodes: Head, tmp_path: Path):
    for stage in ("corpus", "train"):
        finish(start(three_nodes, stage, tmp_path, *EVALUATE), tmp_path, stage)
    driver = start(three_nodes, "evaluate", tmp_path, *EVALUATE)
    wait_until(lambda: len(items(tmp_path)) >= 3, 180, "three items are done")
    nodes = {node.pid for _, node in three_nodes.workers("EvaluationActor")}
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not three_nodes.workers("EvaluationActor"), 60, "its actors end")
    before = items(tmp_path)
    log = finish(start(three_nodes, "evaluate", tmp_path, *EVALUATE), tmp_path, "evaluate")
    after = items(tmp_path)
    assert len(before) < len(after), "too late to test going on"
    assert len(nodes) == 2  # three actors on nodes of two CPUs
    assert f"evaluate: {len(before)} of {len(after)} items are from an earlier run" in log
    assert {name: after[name] for name in before} == before  # nothing was done again
    results = read_results(tmp_path / "report" / "results.json")
    assert all(result.samples == 12 for result in results.methods)
