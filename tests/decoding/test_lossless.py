"""Lossless decoding has the law of sequential decoding, whatever the sampler."""

from __future__ import annotations

import pytest
import torch

from jointsampler import generate
from jointsampler.decoding.verify import FULL, ORDER, REJECTION
from tests.support.analytic import OracleSampler, skewed_teacher
from tests.support.laws import counts, p_value, sequential_law


class NoisySampler(OracleSampler):
    """An oracle whose hidden states are perturbed: often right, often wrong, wrong orders too."""

    def __call__(self, embedding, hidden, mask=None, window=None):
        ids = embedding.argmax(-1)
        exact = super().__call__(embedding, hidden, mask)
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(ids.shape[1], exact.shape[-1], generator=generator)
        return exact + 1.0 * noise


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_lossless_and_sequential_samples_follow_one_law(k, temperature, top_p):
    teacher, n = skewed_teacher(4), 8000
    kwargs = {
        "num_samples": n, "max_new_tokens": 4, "batch_size": 2000, "seed": 6,
        "temperature": temperature, "top_p": top_p,
    }  # fmt: skip
    # The exact law of sequential decoding, enumerated by walking its tree.
    law = sequential_law(teacher, temperature, top_p)
    sequential = generate(teacher, method="sequential", k=1, **kwargs)
    out = generate(teacher, NoisySampler(teacher), method="lossless", k=k, **kwargs)
    marginal = generate(teacher, method="marginal", k=k, **kwargs)
    assert p_value(counts(sequential), law, n) > 0.01
    assert p_value(counts(out), law, n) > 0.01
    assert p_value(counts(marginal), law, n) < 1e-6
    ends = out.block_ends.sum(0)
    assert ends[REJECTION] > n / 20 and ends[FULL] > n / 20  # every branch was taken
    assert k == 2 or ends[ORDER] > n / 20


def test_keeping_the_samplers_order_follows_a_consistent_joint_law_too():
    teacher, n = skewed_teacher(4), 8000
    out = generate(
        teacher, NoisySampler(teacher), method="lossless_tokens", k=4, num_samples=n,
        max_new_tokens=4, batch_size=2000,
    )  # fmt: skip
    assert p_value(counts(out), teacher.law, n) > 0.01
    assert out.block_ends[:, ORDER].sum() == 0 and out.block_ends[:, REJECTION].sum() > n / 20


@pytest.mark.parametrize("k", [1, 3, 5])
def test_greedy_lossless_is_sequential_token_for_token(tiny, trained_like, k):
    kwargs = {
        "num_samples": 3,
        "max_new_tokens": 14,
        "temperature": 0.0,
        "prompts": ["import ", "x = 1\ny"],
    }
    a = generate(tiny, method="sequential", k=1, **kwargs)
    b = generate(tiny, trained_like, method="lossless", k=k, **kwargs)
    assert torch.equal(a.sequences, b.sequences)
    assert torch.equal(a.order, b.order)


def test_a_perfect_draft_is_accepted_whole_and_costs_one_pass_per_block():
    teacher = skewed_teacher(1)
    out = generate(
        teacher,
        OracleSampler(teacher),
        method="lossless",
        k=4,
        num_samples=50,
        max_new_tokens=4,
        batch_size=50,
    )
    # The opening pass and one verification, whose rows are the four prefixes.
    assert out.teacher_passes.unique().tolist() == [2]
    assert out.teacher_rows.unique().tolist() == [1 + 4]
    assert out.block_ends.tolist() == [[1, 0, 0]] * 50


def test_the_account_adds_up(tiny, trained_like):
    out = generate(tiny, trained_like, method="lossless", k=4, num_samples=6, max_new_tokens=20)
    blocks = out.block_ends.sum(1)
    # One verification a block; a pass more at the start and after each rejection but a last one.
    extra = out.teacher_passes - blocks
    assert (extra >= 1).all() and (extra <= 1 + out.block_ends[:, REJECTION]).all()
    assert all(sorted(order) == list(range(20)) for order in out.order.tolist())
    assert not (out.responses == tiny.mask_id).any()


def test_a_row_gives_the_same_sample_whatever_the_batch(tiny, trained_like):
    kwargs = {"method": "lossless", "k": 3, "num_samples": 8, "max_new_tokens": 12, "seed": 2}
    a, b = (generate(tiny, trained_like, batch_size=size, **kwargs) for size in (8, 3))
    assert torch.equal(a.sequences, b.sequences)
