"""The policies of the literature keep to their papers' definitions."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from jointsampler.columns import Block, CertaintyDensity, Delayed, DensityAndRollout, Seen
from jointsampler.teachers.keyvalues import KeyValues
from tests.columns.cases import B, S
from tests.columns.test_policies import seen_of

SHIFT = pytest.mark.parametrize("shift", [0, 1])


def seen_at(position: int, size: int, shift: int = 0, start: int = 0, previous: int | None = None):
    """All masked but ``position``, and no attention stored."""
    masked = torch.arange(size)[None] != position
    before = None if previous is None else torch.tensor([previous])
    at = torch.tensor([position])
    return Seen.of(at, masked, torch.zeros(1, size), shift, None, KeyValues(), start, before)


def test_delayed_recomputes_the_token_revealed_one_step_before():
    assert 30 not in Delayed().choose(4, seen_at(5, 40))[0]
    assert Delayed().choose(4, seen_at(5, 40, previous=30))[0, :2].tolist() == [5, 30]


def test_the_window_of_delayed_is_local_and_holds_known_tokens_too():
    seen = dataclasses.replace(seen_at(20, 40), masked=torch.zeros(1, 40, dtype=torch.bool))
    assert sorted(Delayed().choose(5, seen)[0].tolist()) == [18, 19, 20, 21, 22]


def test_the_window_of_a_shifted_family_predicts_the_neighbours():
    columns = Delayed().choose(4, seen_at(20, 40, shift=1))[0].tolist()
    assert sorted(columns) == [18, 19, 20, 21] or sorted(columns) == [17, 18, 19, 20]


@SHIFT
@pytest.mark.parametrize("start", [1, 3])
def test_a_block_is_the_aligned_stretch_of_the_response_and_nothing_else(shift, start):
    """Of 40 columns, the blocks of 8 positions begin at ``start``."""
    for position in range(start + 1, start + 32):
        served = Block().choose(8, seen_at(position, 40, shift, start))[0] + shift
        block = range(start + (position - start) // 8 * 8, start + (position - start) // 8 * 8 + 8)
        if shift == 0:
            assert sorted(served.tolist()) == list(block)
        else:  # the revealed column itself serves the next position
            assert set(served.tolist()) <= {*block, position + 1}


def test_a_block_at_the_end_of_the_response_is_filled_from_before_it():
    assert sorted(Block().choose(8, seen_at(18, 20))[0].tolist()) == list(range(12, 20))


def test_every_fourth_column_is_a_known_one_that_the_rollout_ranks_first():
    seen = seen_of(0, False)
    columns = DensityAndRollout().choose(9, seen)
    influence = seen.stored.rollout(None)
    dense = CertaintyDensity().choose(S, seen)
    for row in range(B):
        known = [c for c in columns[row, 1:].tolist() if not seen.masked[row, c]]
        masked = [c for c in columns[row, 1:].tolist() if seen.masked[row, c]]
        assert masked == [c for c in dense[row].tolist() if seen.masked[row, c]][: len(masked)]
        others = [c for c in range(S) if not seen.masked[row, c] and c != int(seen.position[row])]
        by_influence = sorted(others, key=lambda c: -influence[row, c].item())
        assert known == by_influence[: len(known)]
        if int(seen.masked[row].sum()) >= 6:
            assert len(known) in (1, 2)  # the revealed column may have held one of the two places


def test_rollout_skips_padding_among_the_known():
    seen = seen_of(0, True)
    columns = DensityAndRollout().choose(5, seen)
    assert seen.attention_mask.gather(1, columns).all()
