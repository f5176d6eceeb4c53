"""The teacher's states that a distillation step learns from."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, Trajectories, generate
from jointsampler.corpus.trajectories import Paths
from jointsampler.distill import DistillSettings, TeacherStates
from jointsampler.sampler import at_columns

INDEX, STARTS = torch.arange(4), torch.tensor([0, 3, 5, 8])
ADVANCES = torch.tensor([[1, 1, 1, 1], [2, 1, 3, 1]])


@pytest.fixture(scope="module")
def rows(tiny):
    prompts = ["x", "def main(argv):\n    return", "import os", "for i in"]
    out = generate(tiny, method="sequential", prompts=prompts, max_new_tokens=10, seed=2)
    return Trajectories.from_generation(out, 2, tiny)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0], ids=["online", "kept"])
@pytest.mark.parametrize("depth", [0, 3])
@torch.no_grad()
def test_targets_are_the_teachers_states_on_the_recorded_path(tiny, rows, depth, cache_gib):
    teacher = JointSampler.for_teacher(tiny, 32, depth=depth).reading(tiny)
    states = TeacherStates(teacher, rows, cache_gib)
    targets = states.targets(INDEX, STARTS, ADVANCES, DistillSettings(), seed=1)
    paths = targets.paths
    recorded = Paths.of(rows, tiny)
    assert torch.equal(paths.ids, recorded.ids)
    last = paths.reveals - 1
    later = [torch.minimum(STARTS + advance, last) for advance in ADVANCES]
    assert torch.equal(targets.at, torch.stack([STARTS, *later]))
    close = dict(rtol=1e-3, atol=1e-3) if cache_gib == 0 else dict(rtol=0.05, atol=0.3)
    real = paths.attention_mask
    for read, at in zip(targets.read, targets.at, strict=True):
        exact = teacher.hidden(paths.state(at), real)
        exact = exact[..., tiny.hidden_size :] if depth else exact
        assert torch.allclose(read[real].float(), exact[real], **close)
    for truth, where, at in zip(targets.truth, targets.where, targets.at[1:], strict=True):
        exact = tiny.hidden(paths.state(at), real)
        exact = at_columns(exact, paths.start + where.positions).flatten(0, 1)
        assert torch.allclose(truth.float(), exact, **close)


def test_a_hybrid_keeps_two_layers_of_a_row_and_the_papers_form_one(tiny, rows):
    sizes = []
    for depth in (0, 3):
        teacher = JointSampler.for_teacher(tiny, 32, depth=depth).reading(tiny)
        states = TeacherStates(teacher, rows, cache_gib=1.0)
        states.fill([1])
        assert states.kept[1].numel() * 2 == states.row_bytes(1) == states.bytes
        sizes.append(states.bytes)
    assert sizes[1] == 2 * sizes[0]


def test_the_teachers_time_is_part_of_the_whole(tiny, rows):
    states = TeacherStates(tiny, rows)
    states.targets(INDEX, STARTS, ADVANCES, DistillSettings(), 0)
    assert 0 < states.teacher_seconds < states.seconds
    assert states.teacher_rows == 3 * 4  # the opening and two later states of each row
