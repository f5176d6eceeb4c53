"""Which columns a refresh recomputes: the revealed one, its masked neighbours, then the next by score."""

from __future__ import annotations

import pytest
import torch

from jointsampler.columns import NearThenScores

B, S = 40, 14


def case(shift: int, padded: bool, seed: int = 0):
    """(position, masked, scores, attention mask) of B random canvases of S columns."""
    draw = torch.Generator().manual_seed(seed)
    real = torch.ones(B, S, dtype=torch.bool)
    if padded:
        real = torch.arange(S) >= torch.randint(0, 5, (B, 1), generator=draw)
    masked = (torch.rand(B, S, generator=draw) < 0.5) & real & (torch.arange(S) > 5)
    position = torch.randint(6, S, (B,), generator=draw)
    masked[torch.arange(B), position] = False
    scores = 10 * torch.randn(B, S, generator=draw)
    return position, masked, scores.masked_fill(~masked, torch.inf), real if padded else None


CASES = pytest.mark.parametrize(("shift", "padded"), [(0, False), (0, True), (1, False), (1, True)])


@CASES
@pytest.mark.parametrize("count", [1, 3, 8, S, 99])
def test_columns_are_distinct_real_and_hold_the_revealed_one(shift, padded, count):
    position, masked, scores, real = case(shift, padded)
    columns = NearThenScores(count, 2).choose(position, masked, scores, shift, real)
    assert columns.shape == (B, min(count, S))
    assert torch.equal(columns[:, 0], position)
    for row in range(B):
        chosen = columns[row].tolist()
        assert len(set(chosen)) == len(chosen) and set(chosen) <= set(range(S))
        if real is not None and count <= int(real[row].sum()):
            assert real[row, columns[row]].all()  # padding comes last


@CASES
def test_after_the_revealed_column_come_near_masked_positions_then_the_lowest_scores(shift, padded):
    """Column c serves position c + shift, so that is whose mask, distance and score count."""
    position, masked, scores, real = case(shift, padded)
    columns = NearThenScores(S, 2).choose(position, masked, scores, shift, real)
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
    policy = NearThenScores(4, 0)
    assert policy.choose(position, masked, scores, 0, None).tolist() == [[2, 5, 3, 4]]
    near = NearThenScores(4, 1)
    assert near.choose(position, masked, scores, 0, None).tolist() == [[2, 1, 3, 5]]
    # Shifted: column c serves c + 1, and the revealed column itself serves position 3.
    assert policy.choose(position, masked, scores, 1, None).tolist() == [[2, 4, 3, 0]]


def test_a_row_chooses_alike_behind_padding():
    position, masked, scores, _ = case(0, False)
    pads = 4

    def behind(x, fill):
        return torch.cat([torch.full((B, pads), fill), x], dim=1)

    real = torch.arange(S + pads).expand(B, -1) >= pads
    for shift in (0, 1):
        plain = NearThenScores(6, 2).choose(position, masked, scores, shift, None)
        padded = NearThenScores(6, 2).choose(
            position + pads, behind(masked, False), behind(scores, torch.inf), shift, real
        )
        assert torch.equal(padded, plain + pads)
