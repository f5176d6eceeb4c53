"""A candidate window: the pass that it saves changes nothing inside, and nothing outside moves."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, UserError, block_kl, generate
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.scoring import order_scores
from jointsampler.measure.cost import pass_cost
from jointsampler.trajectories import Paths, Trajectories
from jointsampler.window import Window, recorded_window

from .analytic import skewed_teacher
from .laws import counts, p_value, sequential_law


@pytest.fixture(scope="module")
def narrow(tiny):
    """A sampler with a window of six, and weights that do something."""
    sampler = JointSampler.for_teacher(tiny, width=64, seed=3, k_max=4, neighbors=1, window=6)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for linear in (sampler.project, sampler.beside):
            linear.weight.normal_(std=0.02, generator=draw)
    return sampler.eval()


@torch.no_grad()
def test_a_window_over_everything_is_the_whole_pass(tiny, narrow):
    torch.manual_seed(0)
    embedding, states = torch.randn(2, 3, 9, tiny.hidden_size)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, :4] = False
    everything = Window(torch.arange(9).expand(3, -1))
    whole = narrow(embedding, states, mask)
    assert torch.allclose(narrow(embedding, states, mask, everything)[mask], whole[mask], atol=1e-5)


@torch.no_grad()
def test_a_pass_moves_the_states_of_the_window_and_no_others(tiny, narrow):
    torch.manual_seed(1)
    embedding, states = torch.randn(2, 2, 12, tiny.hidden_size)
    window = Window(torch.tensor([[3, 1, 7], [2, 0, 11]]))
    after = narrow(embedding, states, None, window)
    changed = (after != states).any(-1)
    assert [row.nonzero()[:, 0].tolist() for row in changed] == [[1, 3, 7], [0, 2, 11]]
    # Later passes see what changes inside, and the rest as the block's first pass found it.
    second = narrow(embedding, after, None, window)[1]
    for column, seen in ((6, False), (11, True)):
        other = embedding.clone()
        other[1, column] += 1
        assert torch.equal(narrow(other, after, None, window)[1, 2], second[2]) != seen


def test_reveals_of_a_block_are_those_most_likely_as_it_opened(tiny, narrow):
    out = generate(tiny, narrow, method="joint", k=4, num_samples=4, max_new_tokens=16, seed=2)
    rows = Trajectories.from_generation(out, 2, tiny, on_policy=True)
    paths = Paths.of(rows, tiny)
    for begin in (0, 4, 8):
        t = torch.full((4,), begin)
        with torch.inference_mode():
            hidden = tiny.hidden(paths.state(t))[:, paths.start :]
        masked = paths.rank >= begin
        scores = order_scores(tiny, hidden, masked, rows.row_ids, get_order("entropy"), 2, 16)
        likely = scores.argsort(dim=1)[:, :6]
        for row in range(4):
            assert set(rows.order[row, begin : begin + 4].tolist()) <= set(likely[row].tolist())


def test_a_row_with_a_window_does_not_depend_on_its_batch(tiny, narrow):
    kwargs = dict(method="joint", k=3, num_samples=7, max_new_tokens=12, seed=4)
    whole, small = (generate(tiny, narrow, batch_size=size, **kwargs) for size in (7, 2))
    assert torch.equal(whole.sequences, small.sequences)


def test_lossless_decoding_stays_exact_within_a_window():
    teacher = skewed_teacher(4)
    sampler = JointSampler.for_teacher(teacher, width=32, seed=0, k_max=2, window=2)
    torch.nn.init.normal_(sampler.project.weight, std=0.5)
    n = 8000
    kwargs = dict(num_samples=n, max_new_tokens=4, batch_size=2000, seed=6)
    joint, ours = (
        generate(teacher, sampler, method=method, k=2, **kwargs) for method in ("joint", "lossless")
    )
    law = sequential_law(teacher, temperature=1.0, top_p=1.0)
    assert p_value(counts(ours), law, n) > 0.01
    assert p_value(counts(joint), law, n) < 1e-6


def test_training_takes_the_recorded_order_for_the_window():
    rank = torch.tensor([[3, 0, 2, 1, 4]])
    assert recorded_window(rank, torch.tensor([1]), 2, start=10).columns.tolist() == [[13, 12]]


def test_the_meter_counts_what_the_window_leaves_out_as_the_marginal_model(tiny, narrow, samples):
    """A window of the block's own size misses reveals that the block's first tokens bring forward."""
    rows = Trajectories.from_generation(samples, 5, tiny)
    tight = JointSampler.for_teacher(tiny, width=64, seed=3, k_max=4, neighbors=1, window=4)
    tight.load_state_dict(narrow.state_dict())
    roomy = JointSampler.for_teacher(tiny, width=64, seed=3, k_max=4, neighbors=1, window=16)
    roomy.load_state_dict(narrow.state_dict())
    nats = [block_kl(tiny, s.eval(), rows, k=4).sampler.value for s in (tight, narrow, roomy)]
    assert len(set(nats)) == 3
    with pytest.raises(UserError, match="k=8 exceeds the window of 6"):
        block_kl(tiny, narrow, rows, k=8)


def test_a_windows_pass_has_a_cost_of_its_own(tiny, narrow):
    assert 0 < pass_cost(tiny, narrow, batch=2, length=16, repeats=1).ratio < 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(window=8, layers=2), "keeps the keys and values of one layer"),
        (dict(window=4, k_max=8), "smaller than the block length k_max=8"),
    ],
)
def test_a_window_that_cannot_be_is_refused(tiny, settings, message):
    with pytest.raises(UserError, match=message):
        JointSampler.for_teacher(tiny, width=64, **settings)


def test_a_block_longer_than_the_window_is_refused(tiny, narrow):
    with pytest.raises(UserError, match="k=8 exceeds the window of 6"):
        generate(tiny, narrow, method="joint", k=8, max_new_tokens=16)
