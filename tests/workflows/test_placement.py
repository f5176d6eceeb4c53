"""Trials are packed by memory: parts of a GPU, a cluster that still grows, one teacher per node on a CPU."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from jointsampler.config import TeacherConfig, load_config
from workflows import teachers
from workflows.sweep import plan as sweep
from workflows.sweep.need import GIB, Need, is_mapped, largest_need, weight_bytes
from workflows.sweep.placement import MOST_AT_ONCE, Node, place
from workflows.sweep.room import startable
from workflows.train.gpu_share import CONTEXT_BYTES, stay_in_share

H100 = Node(cpus=96, gpus=8, memory=1000 * GIB)
GPU_BYTES = 80 * GIB


def on_gpus(workers: int, trials: int, nodes: list[Node], need: Need, **settings):
    return place(workers, trials, nodes, need, on_gpu=True, **settings)


@pytest.mark.parametrize(
    ("need", "each"), [(60, 1), (37, 1), (35, 2), (24, 3), (11, 6), (10, 7), (1, 8)]
)
def test_a_trial_of_a_small_teacher_takes_a_part_of_a_gpu_and_all_parts_fit(need, each):
    made = on_gpus(1, 999, [H100], Need(need * GIB, GIB), gpu_bytes=GPU_BYTES)
    assert made.at_once == min(8 * each, MOST_AT_ONCE)
    assert 1 - 1e-3 < each * made.gpu_share <= 1


def test_a_trial_takes_whole_gpus_where_parts_cannot_be_or_the_memory_is_not_known():
    small = Need(GIB, GIB)
    assert on_gpus(1, 99, [H100], small) == on_gpus(1, 99, [H100], Need(79 * GIB, GIB))
    # NCCL refuses two workers of one training on one GPU.
    two = on_gpus(2, 99, [H100], small, gpu_bytes=GPU_BYTES)
    assert (two.at_once, two.gpu_share) == (4, 1)
    every = on_gpus(0, 99, [H100], small, gpu_bytes=GPU_BYTES)
    assert (every.at_once, every.gpu_share) == (1, 1)


def test_no_more_trials_are_planned_than_there_are_and_the_users_number_is_taken():
    small = Need(GIB, GIB)
    assert on_gpus(1, 3, [H100], small, gpu_bytes=GPU_BYTES).at_once == 3
    assert on_gpus(1, 99, [H100], small, gpu_bytes=GPU_BYTES, at_once=50).at_once == 50


def test_a_cluster_that_starts_nodes_on_demand_is_planned_at_its_largest():
    """Trials that wait are what an autoscaler sees; one at a time would never make it grow."""
    groups = [({"CPU": 4.0}, 1), ({"CPU": 12.0, "GPU": 1.0, "memory": 64.0 * GIB}, 6)]
    nodes = startable(groups)
    assert on_gpus(1, 99, nodes, Need(60 * GIB, GIB), gpu_bytes=GPU_BYTES).at_once == 6
    assert startable([({"GPU": 1.0}, -1)])[0].count > 6
    assert startable([({"GPU": 1.0}, 0), ({}, 5)]) == []


def test_trials_on_gpus_are_also_bounded_by_the_memory_of_their_node():
    node = dataclasses.replace(H100, memory=40 * GIB)
    kept = Need(5 * GIB, host=9 * GIB)  # teacher states that workers keep
    assert on_gpus(1, 99, [node], kept, gpu_bytes=GPU_BYTES).at_once == 4


@pytest.mark.parametrize(("cpus", "at_once"), [(1, 1), (2, 2), (4, 4)])
def test_on_cpus_a_trial_takes_a_core(cpus, at_once):
    nodes, need = [Node(cpus, 0, 64 * GIB)], Need(0, GIB)
    made = place(1, 99, nodes, need, on_gpu=False, cpu_share=0.875)
    assert made.at_once == at_once


def test_a_teacher_that_trials_of_a_node_share_counts_once_there():
    nodes = [Node(16, 0, 20 * GIB), Node(16, 0, 20 * GIB)]
    own = place(1, 99, nodes, Need(0, (1 + 7) * GIB), on_gpu=False)
    shared = place(1, 99, nodes, Need(0, GIB, shared=7 * GIB), on_gpu=False)
    assert (own.at_once, shared.at_once) == (4, 22)


def test_a_node_without_memory_to_spare_still_gets_one_trial():
    assert place(1, 99, [Node(8, 0, GIB)], Need(0, 9 * GIB), on_gpu=False).at_once == 1


def need_with(tmp_path, *overrides: str, on_gpu: bool) -> Need:
    config = load_config(None, ["sweep.space={sampler.width: [32, 96]}", *overrides])
    return largest_need(sweep.plan(config, tmp_path), on_gpu)


def test_the_need_of_a_trial_follows_from_its_shapes(tmp_path):
    weights = weight_bytes(teachers.describe(TeacherConfig()), TeacherConfig(), True)
    gpu = need_with(tmp_path, on_gpu=True)
    wide = need_with(tmp_path, "sweep.space={sampler.width: [960]}", on_gpu=True)
    parts = need_with(tmp_path, "train.accumulate=8", on_gpu=True)
    kept = need_with(tmp_path, "train.cache_gib=1", on_gpu=True)
    assert parts.device < gpu.device < wide.device
    assert gpu.device > weights and gpu.shared == 0
    assert kept.device == gpu.device and kept.host > gpu.host


def test_a_mapped_teacher_moves_from_every_trial_to_its_node(tmp_path):
    converted = need_with(tmp_path, on_gpu=False)  # float16 in the file, float32 in use
    mapped = need_with(tmp_path, "teacher.dtype=float16", on_gpu=False)
    half = TeacherConfig(dtype="float16")
    assert (converted.shared, converted.device) == (0, 0)
    assert mapped.shared == weight_bytes(teachers.describe(half), half, False)
    assert not is_mapped(TeacherConfig()) and is_mapped(half)
    assert converted.host - mapped.host >= mapped.shared


@pytest.mark.parametrize(("share", "limit"), [(1, None), (0.25, 0.24), (0.001, 0)])
def test_a_trial_on_a_part_of_a_gpu_is_kept_to_it(monkeypatch, share, limit):
    """The rest of its part is CUDA's own, outside of torch."""
    limits: list[float] = []
    properties = SimpleNamespace(total_memory=CONTEXT_BYTES * 100)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda value, device: limits.append(value)
    )
    stay_in_share(torch.device("cuda:0"), share)
    stay_in_share(torch.device("cpu"), share)
    assert limits == ([] if limit is None else [pytest.approx(limit)])
