"""What the shipped weights and a refresh capture of the dependency, on held-out samples."""

from __future__ import annotations

import pytest

from jointsampler import Refresh, Trajectories, block_kl, generate
from jointsampler.columns import NearThenScores
from jointsampler.evaluation.kl import Reference


def held_out(tiny, rows: int, length: int, seed: int) -> Reference:
    """Unconditional samples of a seed that no shipped corpus has."""
    out = generate(tiny, method="sequential", num_samples=rows, max_new_tokens=length, seed=seed)
    return Reference(tiny, Trajectories.from_generation(out, seed, tiny))


@pytest.fixture(scope="module")
def text(tiny):
    return held_out(tiny, rows=5, length=32, seed=991)


def captured(reference: Reference, update, k: int = 4, path: str = "recorded") -> float:
    found = block_kl(
        reference.teacher, update, reference.trajectories, k=k, path=path, reference=reference
    )
    return found.captured.value


def test_the_shipped_teacher_has_something_to_capture(text):
    assert block_kl(text.teacher, None, text.trajectories, k=4, reference=text).marginal.low > 1.0


def test_the_shipped_sampler_captures_most_of_the_dependency_at_k_4(text, shipped):
    assert captured(text, shipped) >= 0.77


def test_the_shipped_sampler_captures_nearly_as_much_along_its_own_order(text, shipped):
    assert captured(text, shipped, path="own") >= 0.69


@pytest.mark.parametrize(("policy", "at_four"), [("attention", 0.91), ("near", 0.95)])
def test_a_refresh_captures_nearly_all_and_more_with_more_columns(text, policy, at_four):
    four, eight = (captured(text, Refresh(columns, policy)) for columns in (4, 8))
    assert four >= at_four and eight >= 0.97 and eight > four


def test_without_the_neighbours_of_the_revealed_token_the_scores_choose_worse(text):
    near, scores = (captured(text, Refresh(4, NearThenScores(near))) for near in (2, 0))
    assert scores < near - 0.05


@pytest.mark.slow
def test_at_96_tokens_a_refresh_captures_as_much(tiny):
    reference = held_out(tiny, rows=12, length=96, seed=992)
    for policy, at_four in (("attention", 0.91), ("near", 0.95)):
        assert captured(reference, Refresh(4, policy)) >= at_four
        assert captured(reference, Refresh(8, policy)) >= 0.97
