"""What makes decoding fast: no synchronisation inside a round, little work per reveal, no idle rows."""

from __future__ import annotations

import itertools

import pytest
import torch

from jointsampler import JointSampler, Refresh, block_kl, generate, load_teacher
from jointsampler.corpus.trajectories import Trajectories
from jointsampler.decoding.canvas import Canvas
from jointsampler.decoding.loop import Decoder
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import FixedK
from jointsampler.decoding.strategy import Strategy
from jointsampler.divergence import forward_kl
from jointsampler.updates import as_update
from tests.support.dispatch import Operations

UPDATES = {
    "none": lambda: None,
    "refresh": lambda: Refresh(4),
    "near": lambda: Refresh(4, "near"),
    "hybrid": lambda: JointSampler.from_pretrained("tiny"),
    "paper": lambda: JointSampler.from_pretrained("tiny-paper"),
}


def reveals_of_a_round(teacher, update, k=3, prompts=((0,), (0, 7, 9))) -> list[list[str]]:
    """The operations of each reveal of a round but the first: update, scores, choice and token."""
    chosen = as_update(update)
    strategy = Strategy(chosen, FixedK(k), get_order("entropy"), Sampling(), seed=0)
    canvas = Canvas(teacher, prompts, torch.arange(len(prompts)), 12)
    seen, marks = Operations(), []
    decoder = Decoder(
        chosen.reading(teacher),
        strategy,
        canvas,
        after=lambda canvas: marks.append(len(seen.names)),
    )
    with seen:
        decoder.run_reveals(12, k)
    assert len(marks) == k
    return [seen.names[a:b] for a, b in itertools.pairwise(marks)]


@pytest.mark.parametrize("name", UPDATES)
def test_no_reveal_of_a_round_waits_for_the_device(tiny, name):
    for names in reveals_of_a_round(tiny, UPDATES[name]()):
        assert names and Operations.synchronising(names) == []


def test_the_record_finds_what_would_wait():
    seen = Operations()
    with seen:
        mask = torch.arange(4) > 1
        bool(mask.any())
        mask.nonzero()
        torch.tensor([1.0])
    assert len(Operations.synchronising(seen.names)) == 3


# An update of the paper's form is one layer; of a refresh, all of the teacher's.
@pytest.mark.parametrize("name, most", [("none", 80), ("paper", 130)])
def test_a_reveal_takes_few_operations(tiny, name, most):
    for names in reveals_of_a_round(tiny, UPDATES[name]()):
        assert Operations.computing(names) <= most


def test_what_a_refresh_adds_to_the_teachers_own_layers_is_bounded(tiny):
    """Choosing columns, reading and writing states: the same number at every depth of the teacher."""
    from jointsampler.teachers.keyvalues import KeyValues

    ids = torch.full((2, 12), tiny.mask_id)
    stored, own = KeyValues(), Operations()
    with torch.inference_mode():
        tiny.hidden(ids, None, stored)
        with own:
            tiny.rerun(ids, torch.arange(4).expand(2, -1), None, stored)
    for names in reveals_of_a_round(tiny, Refresh(4, "near"), prompts=((0,), (0,))):
        assert Operations.computing(names) - Operations.computing(own.names) <= 110


def test_one_call_of_the_head_per_reveal(tiny, monkeypatch):
    """The logits of the position that is revealed are among those that were just scored."""
    calls = []
    logits = type(tiny).logits
    monkeypatch.setattr(
        type(tiny),
        "logits",
        lambda self, states: calls.append(states.shape) or logits(self, states),
    )
    generate(tiny, Refresh(4), method="refresh", k=4, num_samples=2, max_new_tokens=8)
    assert len(calls) == 8
    assert [shape[1] for shape in calls] == [8, 5, 5, 5, 4, 5, 5, 5]


@pytest.mark.parametrize(
    "method, settings",
    [("threshold", {"threshold": 0.3}), ("lossless", {"k": 4}), ("adaptive", {"budget": 0.01})],
)
def test_finished_rows_leave_the_batch(tiny, method, settings):
    """Rows end after different numbers of rounds; the samples are those of every row alone."""
    passes = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tiny, name)

        def hidden(self, ids, *rest):
            passes.append(ids.shape)
            return tiny.hidden(ids, *rest)

        def reading(self, layers):
            return self

    kwargs = dict(method=method, max_new_tokens=16, seed=3, **settings)
    whole = generate(Counting(), Refresh(4), num_samples=8, **kwargs)
    # The check of a new teacher makes a shorter pass.
    rows = [batch for batch, positions in passes if positions == 17]
    assert int(whole.teacher_rows.sum()) <= sum(rows)
    assert min(rows) <= 4, "all rows stayed to the end"
    if method != "lossless":  # whose verifications hold several prefixes a row
        assert sum(rows) < 8 * len(rows)
    for row in range(0, 8, 3):
        alone = generate(tiny, Refresh(4), num_samples=1, row_ids=[row], **kwargs)
        for field in ("sequences", "order", "round", "teacher_rows", "update_passes"):
            assert torch.equal(getattr(whole, field)[row], getattr(alone, field)[0]), field


def test_prompts_of_like_length_share_a_batch(tiny):
    padded = []

    class Watching:
        def __getattr__(self, name):
            return getattr(tiny, name)

        def hidden(self, ids, attention_mask=None, *rest):
            padded.append(attention_mask is not None)
            return tiny.hidden(ids, attention_mask, *rest)

    prompts = ["x", "import os", "y", "import re"]
    kwargs = dict(prompts=prompts, method="sequential", max_new_tokens=4, seed=3)
    out = generate(Watching(), batch_size=2, **kwargs)
    assert not any(padded)
    assert out.prompts == generate(tiny, **kwargs).prompts
    assert torch.equal(out.responses, generate(tiny, batch_size=1, **kwargs).responses)


def test_bfloat16_changes_a_conditional_by_less_than_a_thousandth_of_a_nat(tiny):
    """And the nats that a refresh loses by less than a tenth: the stated tolerance of docs/methods.md."""
    low = load_teacher("tiny", dtype="bfloat16")
    truth = generate(tiny, method="sequential", num_samples=6, max_new_tokens=16, seed=9)
    ids = truth.sequences.clone()
    ids[:, 6:] = tiny.mask_id
    with torch.inference_mode():
        exact = torch.log_softmax(tiny.logits(tiny.hidden(ids)), dim=-1)
        nats = forward_kl(exact, low.logits(low.hidden(ids)))[:, 6:]
    assert 0 < nats.mean() < 1e-3
    rows = Trajectories.from_generation(truth, 9, tiny)
    lost = [block_kl(teacher, Refresh(4), rows, 4).update.value for teacher in (tiny, low)]
    assert lost[1] == pytest.approx(lost[0], rel=0.1)


def test_a_sampler_that_gives_no_numbers_still_reveals_every_position_once(tiny):
    broken = JointSampler.from_pretrained("tiny-paper")
    with torch.no_grad():
        broken.project.weight.fill_(float("nan"))
    out = generate(tiny, broken, k=4, num_samples=2, max_new_tokens=8)
    assert out.order.sort(dim=1).values.tolist() == [list(range(8))] * 2
    assert not (out.responses == tiny.mask_id).any()
