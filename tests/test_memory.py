"""Batches are as large as memory allows, and no result depends on how large that is."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jointsampler import JointSampler, Refresh, Trajectories, UserError, block_kl, generate, kept
from jointsampler.config import TrainConfig
from jointsampler.corpus.sample import RowSampler, SampleSettings
from jointsampler.decoding.prompts import longest_row
from jointsampler.distill import TeacherStates
from jointsampler.distill.parts import fitting_parts
from jointsampler.distill.trainer import distill_settings
from jointsampler.distill.validate import Place, Validator
from jointsampler.evaluation.items import Evaluator, KLItem, SampleItem, method_pairs
from jointsampler.evaluation.judges import Judge
from jointsampler.memory import KIND, BatchSize, Room, in_batches
from tests.support.small_device import SmallDevice

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder for every test."""
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def rows(tiny):
    out = generate(tiny, method="sequential", num_samples=6, max_new_tokens=8, seed=5)
    return Trajectories.from_generation(out, 5, tiny)


class Device:
    """Work that fits up to a number of rows; records the parts that it was given."""

    def __init__(self, rows: int):
        self.rows, self.parts = rows, []

    def __call__(self, part: range) -> list[int]:
        self.parts.append(len(part))
        if len(part) > self.rows:
            raise torch.OutOfMemoryError("no room")
        return list(part)


# The mechanism.


def test_a_batch_is_halved_until_it_fits_and_no_finished_part_is_done_again():
    device, size = Device(20), BatchSize(CPU, 64, 64)
    done = size.over(40, device)
    assert device.parts == [40, 20, 20]
    assert [row for part in done for row in part] == list(range(40))


def test_a_batch_that_fits_is_doubled_until_it_does_not(cache):
    key = {"device": "x"}
    kept.keep(KIND, key, 2)  # by an earlier process, when others took the memory
    device, size = Device(20), BatchSize(CPU, 64, 64, key)
    size.over(100, device)
    assert device.parts == [2, 4, 8, 16, 32, *([16] * 4), 6]
    assert size.size == size.fits == 16
    device.parts.clear()
    size.over(100, device)
    assert device.parts == [16] * 6 + [4]  # 32 is not tried again


def test_a_batch_never_grows_beyond_its_start_where_memory_cannot_be_measured():
    device = Device(10**6)
    BatchSize(CPU, 8, 1000).over(20, device)
    assert device.parts == [8, 8, 4]


def test_growing_needs_room_for_the_peak_of_the_larger_batch():
    room = Room(used=10, free=100)
    assert room.holds(2, peak=55) and not room.holds(2, peak=56)  # 45 x 2 of 90 %, 46 x 2


class Cuda:
    """What torch says of a device on which weights take 100 bytes of ``total``, and a row takes ``row``."""

    def __init__(self, monkeypatch, row: int, total: int = 1000, share: float = 1.0):
        self.row, self.limit, self.peak, self.parts = row, total * share, 100, []
        says = {
            "memory_allocated": lambda device: 100, "memory_reserved": lambda device: 150,
            "mem_get_info": lambda device: (total - 150, total),
            "get_device_properties": lambda device: SimpleNamespace(total_memory=total),
            "get_per_process_memory_fraction": lambda device: share,
            "max_memory_allocated": lambda device: self.peak,
            "reset_peak_memory_stats": lambda device: None, "empty_cache": lambda: None,
        }  # fmt: skip
        for name, answer in says.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def __call__(self, part: range) -> None:
        self.parts.append(len(part))
        self.peak = 100 + self.row * len(part)
        if self.peak > self.limit:
            raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize(
    ("row", "share", "parts"),
    [(10, 1.0, [4, 8, 16, 32, 64, 64]), (20, 1.0, [4, 8, 16, 32, 32, 32]), (10, 0.5, [4, 8, 16, 32, 32, 32])],
)  # fmt: skip
def test_a_batch_grows_beyond_its_start_while_there_is_room(monkeypatch, row, share, parts):
    """900 bytes are left of the whole device and 400 of half of it, and a tenth stays free."""
    device, size = Cuda(monkeypatch, row, share=share), BatchSize(torch.device("cuda"), 4, 64)
    size.over(sum(parts), device)
    assert device.parts == parts


def test_a_single_row_that_does_not_fit_is_one_sentence():
    with pytest.raises(UserError, match="One sequence alone does not fit"):
        BatchSize(CPU, 4, 4).over(4, Device(0))


def test_memory_of_libraries_counts_and_other_errors_are_raised_as_they_are():
    def cublas(part):
        if len(part) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ...")
        return len(part)

    assert BatchSize(CPU, 2, 2).over(2, cublas) == [1, 1]
    with pytest.raises(RuntimeError, match="tensor size"):
        BatchSize(CPU, 2, 2).over(2, lambda part: torch.ones(2) @ torch.ones(3))


def test_a_fixed_size_is_kept_and_its_failure_is_the_callers():
    assert in_batches(4, 10, len) == [4, 4, 2]
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(4, 10, Device(2))


# What later processes know.


def test_what_fits_is_remembered_by_device_teacher_length_and_purpose(tiny, cache):
    def begins_with(length=16, purpose="corpus"):
        return BatchSize.of(tiny, length, purpose, 64).size

    BatchSize.of(tiny, 16, "corpus", 64).over(64, Device(20))
    assert begins_with() == 16
    assert begins_with(length=17) == begins_with(purpose="validation") == 64
    assert BatchSize.of(SmallDevice(tiny, 1), 16, "corpus", 64).size == 16  # the same teacher
    assert BatchSize.of(tiny, 16, "corpus", 8).size == 8  # never more than there is to do


def test_a_row_is_as_long_as_its_prompt_and_its_response(tiny, rows):
    prompts = ("x", [{"role": "user", "content": "y"}], "def main(argv):")
    out = generate(tiny, prompts=[prompts[2]], method="sequential", max_new_tokens=8, seed=0)
    assert longest_row(tiny, prompts, 8) == out.sequences.shape[1]
    assert Trajectories.from_generation(out, 0, tiny).width == out.sequences.shape[1]
    assert longest_row(tiny, None, 8) == rows.width


def test_nothing_is_written_while_everything_fits(tiny, cache):
    BatchSize.of(tiny, 16, "corpus", 64).over(64, Device(64))
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "{", "0", "-4", "true", '"7"', "[8]", "null", "1e3"])
def test_a_damaged_file_is_as_good_as_none(cache, content):
    key = {"device": "x"}
    BatchSize(CPU, 64, 64, key).over(64, Device(20))
    (file,) = (cache / KIND).iterdir()
    assert json.loads(file.read_text()) == 16
    file.write_text(content)
    device, size = Device(20), BatchSize(CPU, 64, 64, key)
    assert size.size == 64
    assert [row for part in size.over(64, device) for row in part] == list(range(64))
    assert json.loads(file.read_text()) == 16  # mended


def test_a_cache_that_cannot_be_written_costs_a_warning(cache, caplog):
    cache.write_text("a file where the folder should be")
    done = BatchSize(CPU, 64, 64, {"device": "x"}).over(64, Device(20))
    assert [row for part in done for row in part] == list(range(64))
    assert "the batch-size is not kept" in caplog.text


# Its users: what a small device computes is what a large one does.


def test_rows_of_a_corpus_are_the_same_on_a_small_device(tiny):
    settings = SampleSettings(3, 6, prompts=("x", "def main(argv):", "import os") * 2)
    whole, _ = RowSampler(tiny, settings, 6).rows(range(6))
    small = SmallDevice(tiny, 2)
    size = BatchSize.of(small, 6, "corpus", 6)
    found, _ = RowSampler(small, settings, size).rows(range(6))
    assert size.size == small.refused == 2  # 6 and 3 rows do not fit, 1 does, and then 2
    assert torch.equal(found.tokens, whole.tokens) and torch.equal(found.order, whole.order)
    again = SmallDevice(tiny, 2)
    RowSampler(again, settings, BatchSize.of(again, 6, "corpus", 6)).rows(range(6))
    assert again.refused == 1  # a later process begins with what fits, and tries more once


@pytest.mark.parametrize("path", ["recorded", "own"])
def test_block_kl_is_the_same_on_a_small_device(tiny, rows, hybrid_like, path):
    for update in (hybrid_like, Refresh(4)):
        whole = block_kl(tiny, update, rows, k=4, path=path)
        small = SmallDevice(tiny, 4)
        size = BatchSize.of(small, rows.length, f"block KL of {update}", len(rows))
        found = block_kl(small, update, rows, k=4, path=path, batch_size=size)
        assert small.refused and size.size == 3
        np.testing.assert_allclose(found.per_trajectory, whole.per_trajectory, rtol=1e-4, atol=1e-5)


def test_a_validation_is_the_same_on_a_small_device(tiny, rows, trained_like):
    def validated(teacher):
        return Validator(teacher, rows, [4], 0.7, "entropy")(trained_like)

    small = SmallDevice(tiny, 4)
    whole, found = validated(tiny), validated(small)
    assert small.refused
    for name, value in whole.items():
        assert found[name] == pytest.approx(value, rel=1e-4)


def test_items_of_an_evaluation_are_the_same_on_a_small_device(tiny, rows, trained_like):
    pairs = method_pairs(["refresh", "lossless"], [4])[2:]

    def evaluator(teacher):
        return Evaluator(teacher, trained_like, Refresh(4), None, SampleSettings(5, 8), rows)

    small = SmallDevice(tiny, 4)
    whole, found = evaluator(tiny), evaluator(small)
    for method, k in pairs:
        item = SampleItem(method, k, 0, 0, 6)
        a, b = whole.do(item, pairs), found.do(item, pairs)
        assert (a.texts, a.tokens, a.teacher_rows) == (b.texts, b.tokens, b.teacher_rows)
    a, b = whole.do(KLItem(0, 6), pairs), found.do(KLItem(0, 6), pairs)
    for key in a:
        found, due = b[key].per_trajectory, a[key].per_trajectory
        np.testing.assert_allclose(found, due, rtol=1e-4, atol=1e-5)
    assert small.refused


def test_a_judges_scores_are_the_same_on_a_small_device(judge_folder):
    texts = [f"x{i} = {i}\n" * (1 + i % 3) for i in range(40)]
    whole, small = Judge(str(judge_folder), "cpu"), Judge(str(judge_folder), "cpu")

    def full(module, args, kwargs):
        if len(kwargs["input_ids"]) > 5:
            raise torch.OutOfMemoryError("no room")

    small.model.model.register_forward_pre_hook(full, with_kwargs=True)
    a, b = whole.score(texts), small.score(texts)
    assert small.batch_size.size == 4
    np.testing.assert_allclose(a.nll, b.nll, rtol=1e-5)
    np.testing.assert_allclose(a.features, b.features, rtol=1e-3, atol=1e-5)


def test_kept_states_are_the_same_on_a_small_device(tiny, rows):
    whole, small = (TeacherStates(t, rows, 1.0) for t in (tiny, SmallDevice(tiny, 5)))
    for states in (whole, small):
        states.fill([0, 1])
    assert small.teacher.refused
    for row in (0, 1):
        torch.testing.assert_close(whole.kept[row], small.kept[row], rtol=0.02, atol=0.02)


# Training: the parts of a step.


def parts_on(tiny, rows, device_rows, depth=0, k_max=2, **settings):
    """(the parts of a step, the teacher) of a training on a device that holds ``device_rows``."""
    config = TrainConfig(batch_size=8, k_max=k_max, **settings)
    sampler = JointSampler.for_teacher(tiny, width=32, depth=depth, seed=1, k_max=k_max)
    small = SmallDevice(tiny, device_rows)
    states = TeacherStates(sampler.reading(small), rows)
    before = copy.deepcopy(sampler.state_dict())
    parts = fitting_parts(states, sampler, config, distill_settings(config), Place(), nullcontext)
    assert all(torch.equal(value, before[name]) for name, value in sampler.state_dict().items())
    assert all(p.grad is None for p in sampler.parameters())
    return parts, small


@pytest.mark.parametrize("depth", [0, 2])
def test_a_step_is_cut_into_as_many_parts_as_fit(tiny, rows, depth):
    """Of a state the teacher computes two: where the round opens, and one reveal later."""
    assert parts_on(tiny, rows, 16, depth)[0] == 1
    assert parts_on(tiny, rows, 15, depth)[0] == 2
    assert parts_on(tiny, rows, 5, depth)[0] == 4
    parts, again = parts_on(tiny, rows, 5, depth)
    assert parts == 4 and again.refused == 1  # begins with 2 states, and tries 4 once
    with pytest.raises(UserError, match="One sequence alone does not fit"):
        parts_on(tiny, rows, 1, depth)


def test_parts_grow_again_on_a_device_with_more_memory_than_last_time(tiny, rows):
    assert parts_on(tiny, rows, 5)[0] == 4
    parts, large = parts_on(tiny, rows, 100)
    assert parts == 1 and large.asked == [4, 8, 16, 4]  # of 2, 4, 8 states and the last 2


def test_named_parts_are_the_fewest(tiny, rows):
    assert parts_on(tiny, rows, 100, accumulate=4)[0] == 4
    assert parts_on(tiny, rows, 3, accumulate=4)[0] == 8


def test_a_deep_round_takes_more_parts(tiny, rows):
    assert parts_on(tiny, rows, 16, k_max=4)[0] == 2  # four states of the teacher for each
