"""Too little memory or disk is one sentence for the user, before work starts where it can be known."""

from __future__ import annotations

import errno

import pytest
import ray
import torch
from ray.train import ControllerError

from jointsampler import UserError, generate
from jointsampler.config import TrainConfig
from jointsampler.corpus.trajectories import Trajectories
from jointsampler.distill import TeacherStates
from workflows import cluster
from workflows.train import memory
from workflows.train.memory import check_memory, memory_in_one_sentence


@pytest.fixture(scope="module")
def states(tiny):
    out = generate(
        tiny, method="sequential", k=1, prompts=["import os", "x"], max_new_tokens=8, seed=1
    )
    rows = Trajectories.from_generation(out, 1, tiny)
    return TeacherStates(tiny, rows, cache_gib=1.0)


def test_the_memory_that_a_row_takes_is_known_before_it_is_kept(states):
    states.fill([0, 1])
    kept = [states.kept[row] for row in (0, 1)]
    assert [k.numel() * k.element_size() for k in kept] == [states.row_bytes(r) for r in (0, 1)]
    assert states.bytes == sum(states.row_bytes(r) for r in (0, 1))


def test_a_cache_that_would_fill_the_node_is_refused(states):
    settings = TrainConfig(cache_gib=1.0)
    check_memory(states, range(2), settings, workers_here=2)
    with pytest.raises(UserError, match=r"train.cache_gib=1 would keep .* GiB left, for 100000000"):
        check_memory(states, range(2), settings, workers_here=100_000_000)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": 1000, "memory.current": 900}, 400),
        ({"memory/memory.limit_in_bytes": 1000, "memory/memory.usage_in_bytes": 900}, 400),
        ({"memory.max": "max", "memory.current": 900}, None),  # no limit
        ({}, None),
    ],
)
def test_a_containers_files_that_nobody_reads_now_leave_its_memory_free(
    tmp_path, monkeypatch, files, left
):
    (tmp_path / "memory").mkdir()
    for name, value in files.items():
        place = tmp_path / name
        place.write_text(f"{value}\n")
        total = "" if place.parent == tmp_path else "inactive_file 0\ntotal_"
        place.with_name("memory.stat").write_text(f"anon 600\n{total}inactive_file 300\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = memory.free_memory()
    assert free == left if left is not None else free > 10**6


def test_a_step_that_runs_out_of_the_devices_memory_is_one_sentence():
    with (
        pytest.raises(UserError, match=r"step in 2 parts .* set train\.accumulate=4"),
        memory_in_one_sentence(TrainConfig(accumulate=2)),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="else"), memory_in_one_sentence(TrainConfig()):
        raise RuntimeError("something else")


def test_a_worker_that_ran_out_of_memory_is_one_sentence():
    error = RuntimeError("a training failed")
    error.__cause__ = ray.exceptions.OutOfMemoryError("4 worker(s) were killed\nfor pages")
    found = cluster.user_error_in(error)
    assert isinstance(found, UserError) and "lower train.cache_gib" in str(found)
    assert cluster.user_error_in(RuntimeError("something else")) is None


def test_a_storage_that_ray_itself_cannot_write_is_one_sentence():
    error = ControllerError(OSError(errno.EROFS, "Failed to open '/x': Read-only file system"))
    found = cluster.user_error_in(error)
    assert isinstance(found, UserError) and "'/x': Read-only file system" in str(found)
    assert cluster.user_error_in(ControllerError(OSError(errno.EPIPE, "gone"))) is None
