"""What decoding promises: exactness at k = 1, independence of the batch, an honest account."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jointsampler import JointSampler, UserError, generate
from jointsampler.decoding.sampling import Sampling, draw, probabilities
from tests.support.analytic import OracleUpdate, shuffle_teacher, skewed_teacher
from tests.support.distributions import p_value, words


def test_with_k_1_joint_marginal_and_sequential_agree_token_for_token(tiny, trained_like):
    runs = [
        generate(tiny, trained_like, method=m, k=1, num_samples=6, max_new_tokens=12, seed=2)
        for m in ("sequential", "marginal", "joint")
    ]
    for other in runs[1:]:
        assert torch.equal(runs[0].sequences, other.sequences)
        assert torch.equal(runs[0].order, other.order)
        assert torch.equal(runs[0].teacher_passes, other.teacher_passes)


def test_an_untrained_sampler_gives_the_marginal_models_distributions(tiny):
    sampler = JointSampler.for_teacher(tiny, width=64).eval()
    ids = torch.full((2, 9), tiny.mask_id)
    ids[:, 0] = tiny.bos_id
    hidden = tiny.hidden(ids)
    with torch.no_grad():
        assert torch.equal(sampler(tiny.embed(ids), hidden), hidden)
    runs = [
        generate(tiny, sampler, method=m, k=4, num_samples=4, max_new_tokens=12, seed=1)
        for m in ("marginal", "joint")
    ]
    assert torch.equal(runs[0].sequences, runs[1].sequences)


@pytest.mark.parametrize("method", ["sequential", "marginal", "joint"])
def test_a_row_gives_the_same_sample_whatever_the_batch(tiny, trained_like, method):
    kwargs = dict(method=method, k=3, max_new_tokens=9, seed=4)
    whole = generate(tiny, trained_like, num_samples=7, batch_size=7, **kwargs)
    small = generate(tiny, trained_like, num_samples=7, batch_size=3, **kwargs)
    assert torch.equal(whole.sequences, small.sequences)
    backwards = generate(
        tiny, trained_like, num_samples=7, row_ids=range(6, -1, -1), batch_size=4, **kwargs
    )
    assert torch.equal(whole.sequences, backwards.sequences.flip(0))


@pytest.mark.parametrize("method", ["sequential", "joint"])
def test_a_padded_row_equals_the_row_alone(tiny, trained_like, method):
    prompts = ["x", "def main(argv):\n    return", "class Queue:", ""]
    kwargs = dict(method=method, k=3, max_new_tokens=9, seed=8)
    together = generate(tiny, trained_like, prompts=prompts, **kwargs)
    for row, prompt in enumerate(prompts):
        alone = generate(tiny, trained_like, prompts=[prompt], row_ids=[row], **kwargs)
        assert torch.equal(together.responses[row], alone.responses[0])
        assert torch.equal(together.order[row], alone.order[0])


def test_padding_changes_the_states_of_neither_teacher_nor_sampler(tiny, trained_like):
    body = tiny.tokenizer.encode("import os\n", add_special_tokens=False)
    short = torch.tensor([[tiny.bos_id, *body, tiny.mask_id, tiny.mask_id]])
    padded = torch.cat([torch.full((1, 5), tiny.pad_id), short], dim=1)
    mask = padded != tiny.pad_id
    with torch.no_grad():
        plain, inside = tiny.hidden(short), tiny.hidden(padded, mask)
        assert torch.allclose(plain, inside[:, 5:], atol=1e-4)
        a = trained_like(tiny.embed(short), plain)
        b = trained_like(tiny.embed(padded), inside, mask)
    assert torch.allclose(a, b[:, 5:], atol=1e-4)


def test_forbidden_ids_are_never_sampled_by_any_method(tiny, trained_like):
    for method in ("sequential", "marginal", "joint"):
        out = generate(
            tiny,
            trained_like,
            method=method,
            k=4,
            num_samples=8,
            max_new_tokens=8,
            temperature=3.0,
        )
        assert not torch.isin(out.responses, tiny.forbidden_ids).any()


def test_the_account_is_exact(tiny, trained_like):
    out = generate(tiny, trained_like, method="joint", k=4, num_samples=3, max_new_tokens=10)
    # Rounds of 4, 4 and 2: three full passes, 3 + 3 + 1 updates.
    assert out.teacher_passes.tolist() == out.teacher_rows.tolist() == [3, 3, 3]
    assert out.update_passes.tolist() == [7, 7, 7]
    assert out.round[0].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert all(sorted(order) == list(range(10)) for order in out.order.tolist())


def test_effective_tokens_stop_at_the_first_eos(tiny):
    out = generate(
        tiny, method="sequential", k=1, prompts=["reverse: ann bob ->"] * 4, max_new_tokens=16
    )
    for ids, count in zip(out.responses.tolist(), out.effective_tokens.tolist(), strict=True):
        expected = ids.index(tiny.eos_id) if tiny.eos_id in ids else 16
        assert count == expected


@pytest.mark.parametrize("order", ["entropy", "random", "left_to_right"])
def test_sequential_samples_follow_the_joint_and_marginal_ones_do_not(order):
    teacher = skewed_teacher()
    kwargs = dict(num_samples=6000, max_new_tokens=4, batch_size=2000, order=order, seed=3)
    sequential = generate(teacher, method="sequential", **kwargs)
    marginal = generate(teacher, method="marginal", k=4, **kwargs)
    assert p_value(words(sequential), teacher.joint) > 0.01
    assert p_value(words(marginal), teacher.joint) < 1e-6


@pytest.mark.parametrize("k", [2, 4])
def test_an_update_without_error_samples_from_the_joint(k):
    teacher = skewed_teacher(1)
    out = generate(
        teacher,
        OracleUpdate(teacher),
        method="joint",
        k=k,
        num_samples=6000,
        max_new_tokens=4,
        batch_size=2000,
    )
    assert p_value(words(out), teacher.joint) > 0.01
    assert out.teacher_passes.unique().tolist() == [4 // k]


def test_an_update_without_error_never_repeats_an_item_of_a_shuffle_and_marginals_do():
    teacher = shuffle_teacher(5)
    kwargs = dict(num_samples=400, max_new_tokens=5, batch_size=400, k=5)
    joint = generate(teacher, OracleUpdate(teacher), method="joint", **kwargs).responses
    marginal = generate(teacher, method="marginal", **kwargs).responses
    assert all(len(set(row)) == 5 for row in joint.tolist())
    valid = np.mean([len(set(row)) == 5 for row in marginal.tolist()])
    assert valid == pytest.approx(120 / 5**5, abs=0.03)  # n! / n^n


def test_greedy_decoding_is_the_argmax_whatever_the_seed(tiny):
    a, b = (
        generate(
            tiny, method="sequential", k=1, num_samples=2, max_new_tokens=8, temperature=0, seed=s
        )
        for s in (1, 2)
    )
    assert torch.equal(a.sequences, b.sequences)
    assert torch.equal(a.sequences[0], a.sequences[1])


def test_temperature_changes_the_tokens_but_never_the_order_policys_view(tiny):
    hot, cold = (
        generate(tiny, method="sequential", k=1, num_samples=4, max_new_tokens=8, temperature=t)
        for t in (2.0, 0.0)
    )
    assert torch.equal(hot.order[:, 0], cold.order[:, 0])  # the same first position, untempered


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert probabilities(logits, Sampling(top_p=0.75)).tolist()[0] == pytest.approx(
        [0.625, 0.375, 0, 0]
    )
    assert probabilities(logits, Sampling(top_p=0.81)).tolist()[0][3] == 0
    tempered = probabilities(logits, Sampling(temperature=0.5))[0]
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert torch.allclose(tempered, squares / squares.sum(), atol=1e-6)


def test_a_draw_inverts_the_cdf_and_skips_what_has_no_mass():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    uniform = torch.tensor([[1e-12], [0.2499], [0.2501], [1 - 1e-12]], dtype=torch.float64)[:, 0]
    assert draw(probs.expand(4, 5), uniform).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "jiont"}, "did you mean 'joint'"),
        ({"order": "entropie"}, "did you mean 'entropy'"),
        ({"k": 0}, "k must lie between 1 and"),
        ({"k": 99}, "max_new_tokens=8"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"method": "joint"}, "needs an update"),
        ({"prompts": ["x = 1\n" * 200]}, "exceeds the context"),
        ({"prompts": "one string"}, "list of strings"),
        ({"num_samples": 2, "row_ids": [1]}, "1 row_ids for 2 samples"),
    ],
)
def test_bad_values_are_refused_with_one_sentence(tiny, kwargs, message):
    call = {"method": "marginal", "k": 2, "max_new_tokens": 8} | kwargs
    with pytest.raises(UserError, match=message) as caught:
        generate(tiny, None, **call)
    assert "\n" not in str(caught.value)


def test_k_is_checked_for_the_methods_that_have_one(tiny):
    assert generate(tiny, method="sequential", k=4, max_new_tokens=2).teacher_passes.tolist() == [2]
    generate(tiny, method="threshold", max_new_tokens=2)
    with pytest.raises(UserError, match="k must lie between"):
        generate(tiny, method="marginal", k=4, max_new_tokens=2)
    with pytest.raises(UserError, match="prompts is empty"):
        generate(tiny, prompts=[], method="sequential")
