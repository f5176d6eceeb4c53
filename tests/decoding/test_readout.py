"""A sampler of low rank: the logits kept at a block's candidates, corrected, are the LM head's own."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jointsampler import JointSampler, Trajectories, UserError, block_kl, generate
from jointsampler.decoding import block
from jointsampler.decoding.canvas import Canvas
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.readout import Head, LowRank, opened
from jointsampler.distill import DistillSettings, TeacherStates, distill_step
from jointsampler.window import Window

PROMPTS = ["import os", "x = [1, 2, 3]\nfor", "def"]


@pytest.fixture(scope="module")
def low(tiny):
    """Rank eight in a window of six, with weights that do something."""
    sampler = JointSampler.for_teacher(
        tiny, width=64, seed=3, k_max=4, features=1, neighbors=1, window=6, rank=8
    )
    with torch.no_grad():
        sampler.project.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    return sampler.eval()


@pytest.fixture
def opened_block(tiny, low):
    """(head, low-rank readout, states after no, one and two passes, window) on a padded canvas."""
    teacher = low.reading(tiny)
    canvas = Canvas(teacher, [[0, 40, 50], [0, 7, 8, 9, 10], [0]], torch.arange(3), 12)
    head = Head(teacher, canvas, get_order("entropy"), 0)
    with torch.no_grad():
        states = [teacher.hidden(canvas.ids, canvas.attention_mask)]
        window = Window.first(head.scores(states[0], canvas.candidates, 12), 6, canvas.start)
        readout = opened(head, low, states[0], window)
        for token in (40, 50):
            position = window.columns[:, 0] - canvas.start
            canvas.reveal(position, torch.full((3,), token), torch.ones(3, dtype=torch.bool))
            mask = canvas.attention_mask
            states.append(low(teacher.embed(canvas.ids), states[-1], mask, window))
    return head, readout, states, window


@torch.no_grad()
def test_corrected_logits_and_scores_are_the_heads(opened_block):
    head, readout, states, window = opened_block
    assert isinstance(readout, LowRank)
    inside = window.inside(head.canvas.start, 12)
    before = head.logits(states[0], window.columns[:, 3] - head.canvas.start)
    for hidden in states:
        for c in range(6):
            position = window.columns[:, c] - head.canvas.start
            direct, corrected = head.logits(hidden, position), readout.logits(hidden, position)
            assert torch.equal(direct == -torch.inf, corrected == -torch.inf)
            seen = direct > -torch.inf
            assert torch.allclose(corrected[seen], direct[seen], atol=2e-3)
        a, b = readout.scores(hidden, inside, 6), head.scores(hidden, inside, 6)
        assert torch.equal(a == torch.inf, ~inside)
        assert torch.allclose(a[inside], b[inside], atol=2e-3)
    moved = head.logits(states[2], window.columns[:, 3] - head.canvas.start)
    assert (moved - before).nan_to_num().abs().max() > 0.1  # there was something to correct


def test_decoding_with_the_correction_is_decoding_with_the_head(tiny, low, monkeypatch):
    kwargs = dict(method="joint", k=4, prompts=PROMPTS, max_new_tokens=16, seed=3)
    corrected = generate(tiny, low, **kwargs)
    alone = [generate(tiny, low, **{**kwargs, "prompts": [p]}).responses[0] for p in PROMPTS[:1]]
    assert torch.equal(alone[0], corrected.responses[0])
    monkeypatch.setattr(block, "opened", lambda head, *_: head)
    assert torch.equal(generate(tiny, low, **kwargs).sequences, corrected.sequences)


def test_a_later_pass_runs_no_lm_head(opened_block):
    head, readout, states, window = opened_block
    teacher = head.teacher
    counted = []
    for reading in (head, readout):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            reading.scores(states[2], window.inside(head.canvas.start, 12), 6)
        counted.append(counter.get_total_flops())
    positions = 3 * 6
    assert counted[0] == 2 * positions * teacher.hidden_size * teacher.vocab_size
    assert counted[1] == 2 * positions * 8 * teacher.vocab_size


def test_directions_follow_the_weights(tiny, low):
    before = low.directions(tiny)
    assert low.directions(tiny) is before and before.shape == (8, tiny.vocab_size)
    with torch.no_grad():
        low.lift.weight.mul_(2)
    assert torch.allclose(low.directions(tiny), 2 * before, atol=1e-4)
    with torch.no_grad():
        low.lift.weight.div_(2)


def test_an_untrained_one_is_the_marginal_model_and_a_step_trains_it(tiny):
    sampler = JointSampler.for_teacher(tiny, width=64, k_max=4, window=6, rank=8)
    out = generate(tiny, method="sequential", k=1, num_samples=6, max_new_tokens=12, seed=9)
    rows = Trajectories.from_generation(out, 9, tiny)
    assert block_kl(tiny, sampler, rows, k=4).captured.value == pytest.approx(0, abs=1e-4)
    states, optimizer = TeacherStates(tiny, rows), torch.optim.AdamW(sampler.parameters(), lr=1e-2)
    starts, losses, lift = torch.arange(6), [], sampler.lift.weight.detach().clone()
    for _ in range(12):
        loss, metrics = distill_step(
            states, sampler, torch.arange(6), starts, DistillSettings(k_max=4), 0
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(metrics["loss"].item())
    assert losses[-1] < losses[0]
    assert sampler.project.weight.any() and not torch.equal(sampler.lift.weight, lift)


def test_it_is_saved_with_its_rank_and_needs_a_window(tiny, low, tmp_path):
    low.save_pretrained(tmp_path)
    again = JointSampler.from_pretrained(tmp_path)
    assert (again.config.rank, again.config.window) == (8, 6)
    kwargs = dict(method="joint", k=3, num_samples=2, max_new_tokens=9, seed=1)
    one, other = (generate(tiny, sampler, **kwargs) for sampler in (low, again))
    assert torch.equal(one.sequences, other.sequences)
    with pytest.raises(UserError, match="give the sampler a window, or rank=0"):
        JointSampler.for_teacher(tiny, rank=8)
    with pytest.raises(UserError, match="would cost more than the LM head"):
        JointSampler.for_teacher(tiny, window=16, rank=tiny.hidden_size)
