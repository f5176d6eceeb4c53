"""The measurement: random teachers, the plain recipe, and the table's rows."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from jointsampler import JointSampler, generate
from jointsampler.benchmark import (
    SHAPES,
    Benchmark,
    Figure,
    Grid,
    Shape,
    measure,
    predict,
    random_teacher,
)
from jointsampler.benchmark.reference import reference
from jointsampler.benchmark.roofline import DEVICES
from jointsampler.errors import UserError
from jointsampler.evaluation.cost import step_seconds
from tests.support.analytic import skewed_teacher

SMALL = Shape("small", 2, 32, 2, 1, 64, 50, shift=1, bias=True, max_length=64)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small():
    return random_teacher(SMALL, CPU, torch.float32)


def test_a_random_teacher_decodes_and_is_the_same_for_the_same_seed(small):
    call = dict(method="refresh", k=3, num_samples=2, max_new_tokens=9)
    again = random_teacher(SMALL, CPU, torch.float32)
    other = random_teacher(SMALL, CPU, torch.float32, seed=1)
    first, second, third = (generate(each, **call).responses for each in (small, again, other))
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert small.fingerprint == again.fingerprint != other.fingerprint
    assert random_teacher(SMALL, CPU, torch.bfloat16).model.dtype == torch.bfloat16


def test_a_shape_that_does_not_fit_is_refused_before_it_is_made():
    huge = replace(SMALL, name="huge", vocabulary=10**13)
    with pytest.raises(UserError, match=r"'huge' has .* GiB of weights, and cpu has"):
        random_teacher(huge, CPU, torch.bfloat16)


def test_a_device_without_room_is_a_user_error(small, monkeypatch):
    def full(*args, **settings):
        raise torch.OutOfMemoryError

    module = import_module("jointsampler.benchmark.measure")  # the package's name is the function
    monkeypatch.setattr(module, "step_seconds", full)
    with pytest.raises(UserError, match="A batch of 2 rows of 8 tokens and the teacher exceed"):
        measure(small, Grid((2,), (8,), (1,), (4,)))


def test_the_named_tiny_shape_is_the_embedded_teachers(tiny):
    assert Shape.of(tiny) == SHAPES["tiny"]


@pytest.mark.parametrize("k", [1, 4])
def test_the_plain_recipe_without_an_update_draws_the_tokens_of_sequential_and_marginal(tiny, k):
    same = generate(tiny, method="marginal", k=k, num_samples=3, max_new_tokens=12, seed=7)
    assert torch.equal(reference(tiny, None, 3, 12, k, seed=7), same.responses)
    if k == 1:
        same = generate(tiny, method="sequential", num_samples=3, max_new_tokens=12, seed=7)
        assert torch.equal(reference(tiny, None, 3, 12, k, seed=7), same.responses)


def test_the_plain_recipe_with_a_sampler_draws_the_tokens_of_joint(tiny, trained_like):
    same = generate(tiny, trained_like, method="joint", k=4, num_samples=3, max_new_tokens=12)
    assert torch.equal(reference(tiny, trained_like, 3, 12, 4), same.responses)
    alone = generate(tiny, method="marginal", k=4, num_samples=3, max_new_tokens=12)
    assert not torch.equal(alone.responses, same.responses)


def test_the_table_has_a_row_for_every_case_and_the_same_as_a_prediction(small):
    grid = Grid((1, 2), (8,), (1, 2), (2, 4), "near", repeats=2)
    said = []
    result = measure(small, grid, said.append)
    predicted = predict(SMALL, DEVICES["h200"], grid)
    assert said == ["batch 1, 8 tokens", "batch 2, 8 tokens"]
    names = [
        "full pass",
        "refresh, 2 columns",
        "refresh, 4 columns",
        "joint of depth 0, all columns",
    ]
    names.append("joint of depth 1, 4 columns")  # a network of two layers has no depth 3
    assert [(s.name, s.batch) for s in result.steps] == [(n, b) for b in (1, 2) for n in names]
    for name in ("steps", "speeds"):
        mine, theirs = getattr(result, name), getattr(predicted, name)
        assert [(s.name, s.batch, s.length) for s in mine] == [
            (s.name, s.batch, s.length) for s in theirs
        ]
    assert {s.name for s in result.speeds if s.reference} == {
        "reference recipe, sequential", "reference recipe, joint of depth 0, all columns"
    }  # fmt: skip
    figures = [s.seconds for s in result.steps] + [s.tokens_per_second for s in result.speeds]
    assert all(not f.predicted and 0 <= f.low <= f.value <= f.high for f in figures)
    assert result.steps[0].ratio == result.speeds[0].speedup == 1
    assert "predicted" not in result.table() and "torch" in result.packages
    assert Benchmark.model_validate_json(result.model_dump_json()) == result


def test_the_cost_model_refuses_a_network_that_it_does_not_cover():
    teacher = skewed_teacher(1)
    with pytest.raises(UserError, match="can be measured, not predicted"):
        Shape.of(teacher)


def test_a_figure_is_measured_with_a_spread_or_predicted_without():
    assert Figure.measured([3.0, 1.0, 2.0]).scaled(1e3) == "2,000 [1,500, 2,500]"
    assert Figure.measured([2.0]).low == 2.0
    for wrong in (dict(predicted=False), dict(predicted=True, low=1.0, high=2.0)):
        with pytest.raises(ValueError, match="a predicted one has none"):
            Figure(value=1.0, **wrong)


def test_every_update_is_timed_as_often_as_the_full_pass(small):
    sampler = JointSampler.for_teacher(small)
    full, later = step_seconds(small, [None, sampler], 1, 8, repeats=3)
    assert len(full) == 3 and [len(seconds) for seconds in later] == [3, 3]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(batches=()), "--batch is empty"),
        (dict(batches=(0,)), "at least 1 row"),
        (dict(lengths=(3,)), "at least 4 tokens"),
        (dict(ks=(65,)), "k must lie between 1 and"),
        (dict(columns=(4, 0)), "at least 1 column"),
        (dict(repeats=0), "repeats must be at least 1"),
        (dict(policy="nearr"), "did you mean 'near'"),
    ],
)
def test_a_grid_refuses_what_cannot_be_timed(wrong, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        Grid(**wrong)
