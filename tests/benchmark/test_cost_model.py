"""The cost model against what torch counts, and what its predictions say about themselves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jointsampler import JointSampler, Refresh
from jointsampler.benchmark import SHAPES, Grid, Shape, UpdateCase, predict, random_teacher
from jointsampler.benchmark.cost_model import CostModel, Work
from jointsampler.benchmark.roofline import DEVICES, EFFICIENCY
from jointsampler.decoding.canvas import Canvas
from jointsampler.decoding.loop import Decoder
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import FixedK
from jointsampler.decoding.strategy import Strategy
from jointsampler.updates import NoUpdate, joint_update

BATCH, LENGTH, K = 2, 23, 4
GROUPED = Shape("grouped", 5, 64, 4, 2, 160, 500, shift=1, bias=True, max_length=64)
CPU = torch.device("cpu")


def teacher_of(shape: Shape):
    return random_teacher(shape, CPU, torch.float32)


def counted(teacher, update) -> int:
    """Operations that torch counts in the loop's first round of K reveals."""
    update = update or NoUpdate()
    reading = update.reading(teacher)  # the check of a teacher is no part of the loop
    canvas = Canvas(teacher, [[teacher.bos_id]] * BATCH, torch.arange(BATCH), LENGTH)
    strategy = Strategy(update, FixedK(K), get_order("entropy"), Sampling(), 0)
    decoder = Decoder(reading, strategy, canvas)
    # The counter sees matrix products; fused attention on a CPU is none.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        decoder.run_reveals(LENGTH, K)
    return counter.get_total_flops()


def modelled(shape: Shape, case: UpdateCase | None) -> Work:
    model = CostModel(shape, BATCH, LENGTH + 1, 4)
    later = (model.update(case, LENGTH - reveal) for reveal in range(1, K))
    return sum(later, model.opening(LENGTH) + model.setup(case))


@pytest.mark.parametrize("shape", [SHAPES["tiny"], GROUPED], ids=lambda shape: shape.name)
@pytest.mark.parametrize(
    "case",
    [
        None,
        UpdateCase(None, 4, "near"),
        UpdateCase(None, 8, "attention"),
        UpdateCase(0),
        UpdateCase(3, 6, "attention"),
    ],
    ids=lambda case: "none" if case is None else case.name,
)
def test_the_operations_of_a_round_are_those_that_torch_counts(shape, case):
    teacher, update = teacher_of(shape), None
    if case is not None and case.depth is None:
        update = Refresh(case.columns, case.policy)
    elif case is not None:
        sampler = JointSampler.for_teacher(teacher, depth=case.depth).eval()
        update = joint_update(sampler, case.columns, case.policy)
    assert modelled(shape, case).operations == counted(teacher, update)


@pytest.mark.parametrize("shape", [*SHAPES.values(), GROUPED], ids=lambda shape: shape.name)
def test_the_weights_are_those_of_the_network(shape):
    teacher = random_teacher(shape, torch.device("meta"), torch.bfloat16)
    weights = sum(weight.numel() for weight in teacher.model.parameters())
    assert shape.parameters == weights
    model = CostModel(shape, 1, 8, 2)
    read = (model.full_pass() + model.head(1)).weight_bytes
    # Of an embedding that is not the head, only the rows of the input are read.
    assert read == 2 * (weights - (0 if shape.tied else shape.embedding))
    assert replace(Shape.of(teacher), name="") == replace(shape, name="")


def test_the_weights_of_a_sampler_are_those_of_its_matrices():
    teacher = teacher_of(GROUPED)
    for depth in (0, 3):
        sampler = JointSampler.for_teacher(teacher, depth=depth)
        matrices = [
            p for n, p in sampler.named_parameters() if p.dim() == 2 and "estimator" not in n
        ]
        _, weights = CostModel(GROUPED, 1, 8, 4)._sampler(depth)
        assert weights == sum(matrix.numel() for matrix in matrices)


@pytest.mark.parametrize("depth", [None, 3])
def test_more_columns_and_a_higher_depth_never_cost_less(depth):
    model = CostModel(SHAPES["dream-7b"], 8, 129, 2)
    works = [model.update(UpdateCase(depth, columns), 40) for columns in (1, 4, 8, 16, 128)]
    for less, more in pairwise(works):
        assert less.operations < more.operations and less.bytes <= more.bytes
    deeper = [model.update(UpdateCase(d, 8), 40) for d in (1, 3, 9)]
    assert [w.operations for w in deeper] == sorted(w.operations for w in deeper)
    assert [w.bytes for w in deeper] == sorted(w.bytes for w in deeper)


def test_one_row_is_limited_by_bytes_and_many_by_operations():
    shape = SHAPES["llada-8b"]
    for device in DEVICES.values():
        few = CostModel(shape, 1, 65, 2).full_pass()
        many = CostModel(shape, 64, 257, 2).full_pass()
        assert device.seconds(few) == pytest.approx(few.bytes / device.bandwidth / EFFICIENCY)
        assert device.seconds(many) == pytest.approx(many.operations / device.flops / EFFICIENCY)


def test_every_predicted_figure_says_so():
    result = predict(SHAPES["dream-7b"], DEVICES["h100"], Grid((1, 8), (64, 128)))
    assert result.predicted and result.efficiency == EFFICIENCY and result.threads is None
    figures = [s.seconds for s in result.steps] + [s.tokens_per_second for s in result.speeds]
    assert all(figure.predicted and figure.low is None for figure in figures)
    heading, *rows = [line for line in result.table().splitlines() if line]
    assert heading.startswith("PREDICTED for h100, nothing was run") and "60%" in heading
    rows = [row for row in rows if not row.startswith(("step ", "method "))]
    assert len(rows) == len(figures) and all(row.count("predicted") == 2 for row in rows)
