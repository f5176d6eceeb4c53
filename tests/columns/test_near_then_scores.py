"""The policy that reads no attention: the revealed column, its masked neighbours, then the next by score."""

from __future__ import annotations

import pytest
import torch

from jointsampler.columns import NearThenScores, Seen
from jointsampler.teachers.keyvalues import KeyValues
from tests.columns.cases import CASES, B, S, case


def choose(policy: NearThenScores, count: int, position, masked, scores, shift, real):
    return policy.choose(count, Seen.of(position, masked, scores, shift, real, KeyValues()))


@CASES
def test_after_the_revealed_column_come_near_masked_positions_then_the_lowest_scores(shift, padded):
    """Column c serves position c + shift, so that is whose mask, distance and score count."""
    position, masked, scores, real = case(shift, padded)
    columns = choose(NearThenScores(2), S, position, masked, scores, shift, real)
    for row in range(B):
        at = int(position[row])
        serves = {c + shift: c for c in range(S)}
        hidden = [p for p in serves if p < S and masked[row, p] and serves[p] != at]
        near = sorted((p for p in hidden if abs(p - at) <= 2), key=lambda p: abs(p - at))
        others = sorted((p for p in hidden if abs(p - at) > 2), key=lambda p: scores[row, p].item())
        wanted = [at, *(serves[p] for p in near), *(serves[p] for p in others)]
        got = columns[row, : len(wanted)].tolist()
        assert {*got[: 1 + len(near)]} == {*wanted[: 1 + len(near)]}
        distances = [abs(c + shift - at) for c in got[1 : 1 + len(near)]]
        assert distances == sorted(distances)
        assert got[1 + len(near) :] == wanted[1 + len(near) :]


def test_without_neighbours_the_scores_alone_decide():
    masked = torch.tensor([[False, True, False, True, True, True]])
    scores = torch.tensor([[torch.inf, 5.0, torch.inf, -7.0, 0.0, -8.0]])
    position = torch.tensor([2])

    def chosen(near: int, shift: int) -> list[int]:
        return choose(NearThenScores(near), 4, position, masked, scores, shift, None)[0].tolist()

    assert chosen(near=0, shift=0) == [2, 5, 3, 4]
    assert chosen(near=1, shift=0) == [2, 1, 3, 5]
    # Shifted: column c serves c + 1, and the revealed column itself serves position 3.
    assert chosen(near=0, shift=1) == [2, 4, 3, 0]


@pytest.mark.parametrize("near", [0, 2])
def test_it_asks_a_full_pass_for_keys_alone(near):
    assert NearThenScores(near).keeps == "keys"
