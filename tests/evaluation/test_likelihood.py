"""The likelihood bound against teachers whose joint distribution is known."""

from __future__ import annotations

import math

import pytest
import torch

from jointsampler import UserError
from jointsampler.evaluation.likelihood import likelihood_bound, masks
from tests.support.analytic import inconsistent_teacher, skewed_teacher


def enumerated(teacher, prompt: list[int], response: tuple[int, ...]) -> float:
    """The bound by its definition: every subset of masked positions, every size equally likely."""
    length, total = len(response), 0.0
    for subset in range(1, 1 << length):
        masked = torch.tensor([subset >> i & 1 for i in range(length)], dtype=torch.bool)
        count = int(masked.sum())
        ids = torch.tensor([[*prompt, *response]])
        ids[0, len(prompt) :][masked] = teacher.mask_id
        log_probs = teacher.logits(teacher.hidden(ids))[0, len(prompt) :].log_softmax(-1)
        nats = log_probs[torch.arange(length), torch.tensor(response)][masked].sum()
        total += float(nats) * length / count / math.comb(length, count) / length
    return total


@pytest.mark.parametrize("make", [skewed_teacher, inconsistent_teacher])
def test_the_estimate_is_unbiased(make):
    teacher = make()
    response = next(iter(teacher.joint))
    prompt, n = [teacher.bos_id], 400
    found = likelihood_bound(teacher, [prompt] * n, [response] * n, range(n), draws=4)
    error = float(found.std()) / n**0.5
    assert error < 0.1
    assert float(found.mean()) == pytest.approx(
        enumerated(teacher, prompt, response), abs=4 * error + 1e-6
    )


def test_with_the_conditionals_of_one_joint_the_bound_is_the_log_likelihood():
    teacher = skewed_teacher()
    for response, probability in list(teacher.joint.items())[:5]:
        assert enumerated(teacher, [teacher.bos_id], response) == pytest.approx(
            math.log(probability), abs=1e-4
        )


def test_a_token_by_itself_is_exact(tiny):
    prompt = [tiny.bos_id, 5, 9]
    log_probs = tiny.logits(tiny.hidden(torch.tensor([[*prompt, tiny.mask_id]])))[0, -1]
    (found,) = likelihood_bound(tiny, [prompt], [[7]], [3]).tolist()
    assert found == pytest.approx(float(log_probs.log_softmax(-1)[7]), abs=1e-5)


def test_the_batch_changes_nothing(tiny):
    prompts = [[tiny.bos_id, *range(5, 5 + n)] for n in (1, 4, 9)]
    responses = [[8, 9, 10, 11], [20], [30, 31, 32]]
    one, many = (
        likelihood_bound(tiny, prompts, responses, [0, 1, 2], draws=5, batch_size=size)
        for size in (1, 16)
    )
    alone = likelihood_bound(tiny, prompts[2:], responses[2:], [2], draws=5)
    assert torch.allclose(one, many, atol=1e-4)
    assert torch.allclose(one[2:], alone, atol=1e-4)


def test_every_count_is_masked_equally_often_and_every_position():
    made = masks(length=5, row=1, draws=5000)
    counts = made.sum(1).bincount(minlength=6)
    assert counts[0] == 0 and (counts[1:] - 1000).abs().max() <= 1  # stratified
    assert made.float().mean(0) == pytest.approx([0.6] * 5, abs=0.03)


def test_rows_have_masks_of_their_own():
    assert torch.equal(masks(9, row=1, draws=4), masks(9, row=1, draws=4))
    assert not torch.equal(masks(9, row=1, draws=4), masks(9, row=2, draws=4))


def test_an_empty_response_is_certain_and_one_too_long_is_refused(tiny):
    assert likelihood_bound(tiny, [[0]], [[]], [0]).tolist() == [0.0]
    with pytest.raises(UserError, match="more than the context"):
        likelihood_bound(tiny, [[0]], [[5] * tiny.max_length], [0])
    with pytest.raises(UserError, match="at least 1 draw"):
        likelihood_bound(tiny, [[0]], [[5, 6]], [0], draws=0)
