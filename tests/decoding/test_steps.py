"""Steps: several reveals share an update, and what that means for a sample."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, Refresh, UserError, generate
from jointsampler.corpus.trajectories import Trajectories
from jointsampler.decoding.canvas import Canvas
from jointsampler.decoding.generate import decode
from jointsampler.decoding.loop import Decoder
from jointsampler.decoding.orders import Entropy
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import EntropyBound, FixedK, Threshold
from jointsampler.decoding.strategy import Strategy
from jointsampler.divergence import entropy
from jointsampler.evaluation.kl import walk
from jointsampler.updates import Hybrid, as_update
from jointsampler.updates.refresh import RefreshRound

PROMPTS = ["sort: bob amy ->", "copy: eve ->", "", "reverse: ann bob eve ->"]
LENGTH = 16
CALL = dict(max_new_tokens=LENGTH, seed=3)


def run(teacher, update, rule, step, rows=(0, 1, 2, 3), after=None):
    strategy = Strategy(update, rule, Entropy(), Sampling(), 3, step=step)
    encoded = encode_prompts(teacher, PROMPTS, LENGTH)
    return decode(
        teacher, strategy, [encoded[i] for i in rows], torch.tensor(rows), LENGTH, method="test",
        on_reveal=after,
    )  # fmt: skip


def same(one, other) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("sequences", "order", "teacher_passes", "update_passes")
    )


def test_one_reveal_a_step_is_an_update_after_every_reveal(tiny):
    plain = generate(tiny, Refresh(4), PROMPTS, "refresh", 8, **CALL)
    assert same(run(tiny, Refresh(4), FixedK(8), FixedK(1)), plain)


def test_a_step_as_long_as_its_round_is_the_marginal_model(tiny):
    plain = generate(tiny, None, PROMPTS, "marginal", 4, **CALL)
    out = run(tiny, Refresh(4), FixedK(4), FixedK(4))
    assert same(out, plain) and int(out.update_passes.sum()) == 0


@pytest.mark.parametrize("policy", ["near", "attention"])
def test_steps_over_all_columns_are_rounds_of_the_marginal_model(tiny, policy):
    """A pass over all columns is a full pass, and every token of a step is in it."""
    plain = generate(tiny, None, PROMPTS, "marginal", 2, **CALL)
    out = run(tiny, Refresh(99, policy), FixedK(8), FixedK(2))
    assert torch.equal(out.sequences, plain.sequences)
    assert (out.teacher_passes == 2).all() and (out.update_passes == 6).all()


def test_an_update_recomputes_every_token_of_its_step(tiny, monkeypatch):
    """The policy names the last one alone, beside one column of its own choice."""
    recomputed, rerun = [], RefreshRound.recompute

    def recording(self, ids, columns):
        recomputed.append(columns[0].tolist())
        return rerun(self, ids, columns)

    monkeypatch.setattr(RefreshRound, "recompute", recording)
    out = run(tiny, Refresh(2, "near"), FixedK(LENGTH), FixedK(4), [0])
    start = out.sequences.shape[1] - LENGTH
    places = (start + out.order[0]).tolist()
    assert len(recomputed) == 3
    for step, columns in enumerate(recomputed):
        assert set(places[4 * step : 4 * step + 4]) <= set(columns)
        assert len(columns) == 2 + 3


STEPS = {
    "bound": EntropyBound(LENGTH, 0.3),
    "threshold": Threshold(LENGTH, 0.6),
    "tokens": FixedK(3),
}


UPDATES = {
    "refresh": lambda: Refresh(4),
    "hybrid": lambda: Hybrid(JointSampler.from_pretrained("tiny"), 4),
    "paper": lambda: as_update(JointSampler.from_pretrained("tiny-paper")),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("update", UPDATES)
def test_a_sample_does_not_depend_on_the_rows_that_wait_for_it(tiny, update, step):
    made = UPDATES[update]()
    rule = FixedK(8)
    together = run(tiny, made, rule, STEPS[step])
    if step != "tokens":  # rows need updates at different reveals
        assert len(set(together.update_passes.tolist())) > 1
    for row in range(len(PROMPTS)):
        alone = run(tiny, made, rule, STEPS[step], [row])
        assert torch.equal(alone.responses[0], together.responses[row])
        assert torch.equal(alone.order[0], together.order[row])
        assert alone.update_passes[0] == together.update_passes[row]


def test_steps_end_with_their_block(tiny):
    call = CALL | {"block_length": 4, "step_bound": 0.3}
    together = generate(tiny, Refresh(4), PROMPTS, "refresh", 8, **call)
    assert (together.order[:, :4] < 4).all() and (together.teacher_passes == 4).all()
    for row, prompt in enumerate(PROMPTS):
        alone = generate(tiny, Refresh(4), [prompt], "refresh", 8, row_ids=[row], **call)
        assert torch.equal(alone.responses[0], together.responses[row])


@pytest.mark.parametrize("path", ["recorded", "own"])
def test_a_step_on_recorded_tokens_is_asked_about_the_positions_that_it_reveals(tiny, path):
    """With all columns recomputed and no bound on the KL, what is added is what the steps draw together."""
    truth = generate(tiny, None, PROMPTS, "sequential", **CALL)
    rows = Trajectories.from_generation(truth, 3, tiny)
    rule, step = FixedK(LENGTH), EntropyBound(LENGTH, 0.05)
    strategy = Strategy(Refresh(99, "near"), rule, Entropy(), Sampling(), 3, step=step)
    none = Strategy(Refresh(99, "near"), rule, Entropy(), Sampling(), 3)
    stepped, every = (walk(tiny, each, rows, path=path) for each in (strategy, none))
    assert (every.update_passes == LENGTH - 1).all()
    assert stepped.update_passes.sum() < every.update_passes.sum()
    assert abs(every.nats).max() < 1e-3 < stepped.nats.max()
    # An expectation over the tokens is bounded; these are the recorded ones.
    assert stepped.nats.sum() / LENGTH / len(rows) < 0.1


@pytest.mark.parametrize(
    "method, settings",
    [("adaptive", {"budget": 0.02}), ("threshold", {"threshold": 0.3}),
     ("factor", {"factor": 2.0}), ("entropy_bound", {"bound": 2.0})],
)  # fmt: skip
def test_steps_go_with_every_stop_rule(tiny, method, settings):
    def drawn(prompts, rows, **more):
        return generate(tiny, Refresh(4), prompts, method, row_ids=rows, **settings, **CALL, **more)

    together = drawn(PROMPTS, [0, 1, 2, 3], step_bound=0.3)
    plain = drawn(PROMPTS, [0, 1, 2, 3])
    assert int(together.update_passes.sum()) < int(plain.update_passes.sum())
    for row, prompt in enumerate(PROMPTS):
        alone = drawn([prompt], [row], step_bound=0.3)
        assert torch.equal(alone.responses[0], together.responses[row])
        assert alone.teacher_passes[0] == together.teacher_passes[row]


def test_a_steps_entropies_without_the_largest_stay_within_the_bound(tiny):
    """Read off the choices of one row: the reveals between two updates."""
    bound, seen = 0.25, []
    (prompt,) = encode_prompts(tiny, PROMPTS[:1], LENGTH)
    canvas = Canvas(tiny, [prompt], torch.tensor([0]), LENGTH)
    strategy = Strategy(
        Refresh(4), FixedK(LENGTH), Entropy(), Sampling(), 3, step=EntropyBound(LENGTH, bound)
    )
    Decoder(
        tiny, strategy, canvas,
        before=lambda choice: seen.append((int(canvas.update_passes[0]), entropy(choice.logits)[0].item())),
    ).run()  # fmt: skip
    steps = [[nats for update, nats in seen if update == u] for u in {u for u, _ in seen}]
    assert len(seen) == LENGTH and max(map(len, steps)) > 1 and len(steps) > 1
    for step in steps:
        assert sum(step) - max(step) <= bound + 1e-5


def test_the_meter_sees_the_samples_of_decoding(tiny):
    encoded = encode_prompts(tiny, PROMPTS, LENGTH)
    blank = torch.full((4, LENGTH), -1)
    rows = Trajectories(torch.arange(4), encoded, blank, blank, 3, tiny.fingerprint)
    strategy = Strategy(
        Refresh(8), FixedK(LENGTH), Entropy(), Sampling(), 3, step=EntropyBound(LENGTH, 0.2)
    )
    found = walk(tiny, strategy, rows, path="sampled")
    out = generate(
        tiny, Refresh(8), PROMPTS, "refresh", LENGTH, step_bound=0.2, stop_at_end=True, **CALL
    )
    assert (found.position == out.order.numpy()).all()
    assert (found.update_passes == out.update_passes.numpy()).all()
    assert found.nats.min() >= -1e-6


@pytest.mark.parametrize(
    "method, settings, sentence",
    [
        ("marginal", {"step_bound": 0.1}, "method 'marginal' has none"),
        ("sequential", {"step_bound": 0.1}, "method 'sequential' has none"),
        ("lossless", {"step_bound": 0.1}, "needs one after every reveal"),
        ("threshold", {"step_bound": 0.1}, "and there is none"),
        ("refresh", {"step_bound": -1.0}, "0 nats or more, not -1"),
        ("refresh", {"step_bond": 0.1}, "did you mean 'step_bound'"),
    ],
)
def test_a_step_that_cannot_be_is_refused(tiny, method, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        generate(tiny, method=method, **CALL, **settings)
