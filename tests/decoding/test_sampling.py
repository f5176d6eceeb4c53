"""From logits to a token: top-p keeps exactly the set that a sort of the vocabulary finds."""

from __future__ import annotations

import pytest
import torch

from jointsampler.decoding import sampling
from jointsampler.decoding.sampling import Sampling, probabilities
from tests.support.dispatch import Operations

VOCABULARY = 5000  # more than four prefixes


def by_a_sort(probs, top_p):
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    kept = torch.where(ordered.cumsum(-1) - ordered < top_p, ordered, 0.0)
    kept = torch.zeros_like(probs).scatter(-1, index, kept)
    return kept / kept.sum(-1, keepdim=True)


def rows(kind: str) -> torch.Tensor:
    logits = 4 * torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0))
    if kind == "rounded":  # many ties
        return logits.round()
    if kind == "flat":  # all tied: no prefix holds the set
        return torch.zeros_like(logits)
    if kind == "mixed":  # one flat row among peaked ones
        logits[1] = 0.0
    return logits


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["peaked", "rounded", "flat", "mixed"])
def test_top_p_keeps_what_a_sort_of_the_vocabulary_keeps(kind, top_p):
    logits = rows(kind)
    expected = by_a_sort(torch.softmax(logits, dim=-1), top_p)
    assert torch.equal(probabilities(logits, Sampling(top_p=top_p)), expected)


def test_a_tie_that_the_prefix_cuts_is_settled_by_the_sort():
    logits = torch.full((1, VOCABULARY), -9.0)
    logits[0, -sampling._PREFIX - 8 :] = 0.0  # more equals than the prefix holds
    expected = by_a_sort(torch.softmax(logits, dim=-1), 0.5)
    assert torch.equal(probabilities(logits, Sampling(top_p=0.5)), expected)


@pytest.mark.parametrize(("kind", "sorts"), [("peaked", 0), ("flat", 1)])
def test_the_vocabulary_is_sorted_only_where_a_prefix_does_not_hold_the_set(kind, sorts):
    seen, logits = Operations(), rows(kind)
    with seen:
        probabilities(logits, Sampling(top_p=0.9))
    # The prefix itself takes two sorts of a few hundred numbers.
    assert sum("sort" in name for name in seen.names) == 2 + sorts
