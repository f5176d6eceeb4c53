"""The quickstart as a job on a cluster of three raylets: every stage's work is spread over the nodes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jointsampler.corpus.manifest import verify_corpus
from jointsampler.evaluation.results import read_results
from tests.ray.jobs import begin, finish
from tests.ray.nodes import Head, wait_until

pytestmark = pytest.mark.slow

# Three workers of a CPU each cannot fit on one node of two.
THREE = ["corpus.actors=3", "evaluate.actors=3", "train.workers=3", "train.batch_size=6"]


def nodes_at_work(head: Head, job: subprocess.Popen, worker: str) -> int:
    """On how many nodes workers of that name were seen at the same time, at least two of them."""

    def spread() -> int:
        assert job.poll() is None, f"the job ended before any {worker} was seen on two nodes"
        nodes = {node.pid for _, node in head.workers(worker)}
        return len(nodes) if len(nodes) >= 2 else 0

    return wait_until(spread, 240, f"{worker} on two nodes")


def test_the_quickstart_runs_as_a_job_on_a_cluster_and_uses_its_nodes(
    three_nodes: Head, judge_folder: Path, tmp_path: Path
):
    long_enough = ["corpus.rows=184", "corpus.rows_per_file=16", "corpus.max_new_tokens=32"]
    judge = f"evaluate.judge={judge_folder}"
    job = begin(three_nodes, tmp_path, *THREE, *long_enough, judge)
    seen = {
        worker: nodes_at_work(three_nodes, job, worker)
        for worker in ("TeacherActor", "RayTrainWorker", "EvaluationActor")
    }
    log = finish(job, tmp_path, "job", 420)
    assert set(seen.values()) == {2}  # the head takes no work
    for stage in ("corpus", "train", "evaluate", "report"):
        assert f"{stage}: done in" in log
    manifest, _ = verify_corpus(tmp_path / "corpus")
    assert sum(shard.rows for shard in manifest.shards) == 192
    results = read_results(tmp_path / "report" / "results.json")
    assert all(result.samples == 24 for result in results.methods)
