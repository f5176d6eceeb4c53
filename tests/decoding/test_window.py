"""A candidate window: the pass that it saves changes nothing inside, and nothing outside moves."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jointsampler import JointSampler, UserError, block_kl, generate
from jointsampler.corpus.trajectories import Paths, Trajectories
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.scoring import order_scores
from jointsampler.distill import DistillSettings, TeacherStates, distill_step
from jointsampler.evaluation.block_kl import _blocks, opening_window
from jointsampler.evaluation.cost import PassCost, pass_cost
from jointsampler.window import Window, recorded_window
from tests.support.analytic import skewed_teacher
from tests.support.laws import counts, p_value, sequential_law


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
    """In blocks with a reveal outside a tight window, that reveal adds the marginal model's KL."""
    rows = Trajectories.from_generation(samples, 5, tiny)
    tight = JointSampler.for_teacher(tiny, width=64, seed=3, k_max=4, neighbors=1, window=4)
    tight.load_state_dict(narrow.state_dict())
    paths, outside = Paths.of(rows, tiny), []
    for begin in range(0, 16, 4):
        t = torch.full((len(rows),), begin)
        with torch.inference_mode():
            opening = tiny.hidden(paths.state(t), paths.attention_mask)
        entropy = get_order("entropy")
        window = opening_window(tiny, tight, rows, paths, opening, t, entropy)
        inside = window.inside(paths.start, 16)
        for row in range(len(rows)):
            missed = [j for j in range(1, 4) if not inside[row, rows.order[row, begin + j]]]
            outside += [(row, begin, j) for j in missed]
    assert outside
    row, begin, j = outside[0]
    only = rows.select([row])
    t = torch.tensor([begin])
    added = []
    for k in (j, j + 1):  # the block up to that reveal, and with it
        with torch.inference_mode():
            laws = _blocks(tiny, tight.eval(), only, t, k, 1.0, get_order("entropy"))
        added.append(torch.stack(laws))
    marginal, sampled = (added[1] - added[0])[:, 0].tolist()
    assert sampled == pytest.approx(marginal, abs=1e-4)
    with pytest.raises(UserError, match="k=8 exceeds the window of 6"):
        block_kl(tiny, narrow, rows, k=8)


@torch.no_grad()
def test_the_matrices_of_a_later_pass_meet_the_window_alone(tiny, narrow):
    """Operations of a block's first and second pass, by sequence length: attention alone still grows."""
    counts = {}
    for length in (50, 100, 200):
        embedding, states = torch.randn(2, 1, length, tiny.hidden_size)
        window, each = Window(torch.arange(6)[None]), []
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                narrow(embedding, states, None, window)
            each.append(counter.get_flop_counts()["Global"])
        counts[length] = [
            sum(n for op, n in of.items() if (op == torch.ops.aten.mm) == matrices)
            for of in each
            for matrices in (True, False)
        ]
    matrices_first, _, matrices, attention = zip(*counts.values(), strict=True)
    assert len(set(matrices)) == 1 and matrices_first[0] < matrices_first[1] < matrices_first[2]
    assert attention[2] == 2 * attention[1] == 4 * attention[0]


def test_a_blocks_first_pass_is_accounted_where_a_sampler_pass_was_made(tiny, narrow):
    assert pass_cost(tiny, narrow, batch=2, length=16, repeats=1).ratio > 0
    plain = JointSampler.for_teacher(tiny, width=64).eval()
    assert pass_cost(tiny, plain, batch=2, length=16, repeats=1).first == 0
    cost = PassCost(1.0, 0.1, 0.1, 1, 1, first=0.3)
    assert cost.tokens_per_pass(8, 2, 6) == pytest.approx(8 / (2 + 0.6 + 0.6))
    assert cost.tokens_per_pass(8, 2, 0) == 4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_training_step_moves_every_part_and_looks_inside_the_window_alone(
    tiny, samples, precision
):
    rows = Trajectories.from_generation(samples, 5, tiny)
    sampler = JointSampler.for_teacher(tiny, width=64, k_max=4, neighbors=1, window=4)
    torch.nn.init.normal_(sampler.project.weight, std=0.02)
    states, starts = TeacherStates(tiny, rows), torch.arange(12)
    settings = DistillSettings(k_max=4, hidden_weight=0.3)
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        loss, _ = distill_step(states, sampler, torch.arange(12), starts, settings, 0)
    loss.backward()
    for name, parameter in sampler.named_parameters():
        if not name.startswith(("estimator", "layer_norms")):
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    targets = states.targets(torch.arange(12), starts, settings, 3, 0, candidates=4)
    for depth in targets.depths:
        ahead = targets.paths.rank.gather(1, depth.where.positions) - starts[:, None]
        assert (ahead[depth.where.weight > 0] < 4).all()


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
