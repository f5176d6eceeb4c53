"""Lengths of a round, their cost, and the nats that one walk tells of several of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jointsampler.evaluation.kl import Walk
from jointsampler.tuning.candidates import (
    RULES,
    UpdateCase,
    column_counts,
    round_lengths,
    seconds_by_rule,
    seconds_per_token,
    stop_rule,
    walked,
)
from jointsampler.tuning.fidelity import Walks, ages, nats_of_rounds, reveals_of_rounds, spread_over
from jointsampler.tuning.measure import trajectories
from jointsampler.tuning.situation import up_to_a_power_of_two
from jointsampler.updates import NoUpdate
from tests.support.analytic import OracleUpdate, shuffle_teacher


def test_rounds_double_up_to_the_response():
    assert round_lengths(96) == [2, 4, 8, 16, 32, 64, 96]
    assert round_lengths(64) == [2, 4, 8, 16, 32, 64]
    assert round_lengths(5) == [2, 4, 5]


@pytest.mark.parametrize("length", [4, 8, 24, 64, 96, 256, 600])
def test_a_walk_serves_shorter_rounds_only_where_it_has_three_rounds(length):
    for k in round_lengths(length):
        longest = walked(k, length)
        assert longest >= k
        assert longest == k or 3 * longest <= length
    assert {walked(k, 96) for k in round_lengths(96)} == {8, 32, 64, 96}


def test_a_refresh_of_all_columns_is_no_candidate():
    assert column_counts(17) == [4, 8, 16] and column_counts(16) == [4, 8]


@pytest.mark.parametrize(("k", "length"), [(1, 7), (3, 7), (4, 8), (8, 8)])
def test_the_cost_is_a_full_pass_per_round_and_an_update_for_every_other_token(k, length):
    total = sum(1.0 if token % k == 0 else 0.25 for token in range(length))
    assert seconds_per_token(1.0, 0.25, k, length, batch=3) == pytest.approx(total / length / 3)


def test_rounds_of_a_rule_that_all_have_k_reveals_cost_those_and_the_refused_one():
    found = seconds_by_rule(1.0, 0.4, 0.25, [[4, 4], [4, 4, 4]], 12, batch=4)
    assert found == pytest.approx((1.0 + 4 * 0.25) / 4 / 4)


def test_a_batch_waits_for_the_longest_of_its_rows_rounds():
    rows = [[1, 3]]  # two reveals on average
    alone, many = (seconds_by_rule(1.0, 1.0, 0.5, rows, 4, batch) * batch for batch in (1, 64))
    assert alone == pytest.approx((1.0 + 2 * 0.5) / 2)
    assert many == pytest.approx((1.0 + 3 * 0.5) / 2)


def test_a_batch_goes_on_until_its_last_row_ends_and_halves_on_the_way():
    rows = [[8], [1] * 8]  # one full pass, and eight
    ends = np.quantile([1, 8], [0.25, 0.75])
    for single in (0.5, 0.8, 1.0):  # seconds of a pass on the row that is left
        found = seconds_by_rule(1.0, single, 0.0, rows, 8, batch=2) * 8 * 2
        assert found == pytest.approx(ends[0] + (ends[1] - ends[0]) * single)


def test_the_rules_are_those_of_their_methods():
    assert [type(stop_rule(rule, 8)).__name__ for rule in RULES] == [
        "Threshold", "Threshold", "Threshold", "Factor", "EntropyBound", "EntropyBound",
    ]  # fmt: skip
    assert stop_rule(RULES[1], 8).limit == 8 and stop_rule(4, 8).limit == 4


def test_reveals_are_counted_by_round_and_unmade_ones_are_not():
    rounds = np.array([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, -1, -1]])
    nats, none = np.zeros((2, 6)), np.zeros(2, dtype=int)
    walk = Walk(nats, rounds, rounds, rounds >= 0, nats, none, none)
    assert reveals_of_rounds([walk, walk]) == [[3, 2, 1], [1, 3]] * 2


def test_ages_count_the_reveals_since_the_full_pass():
    rounds = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 2, 2, 2, -1, -1]])
    assert ages(rounds).tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 0, 0, 1, 2, 3, 0, 1]]


def test_shorter_rounds_are_read_off_by_age_and_full_ones_are_the_walks_own():
    nats = np.arange(12.0).reshape(2, 6)
    rounds = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, -1]])
    counted, none = rounds >= 0, np.zeros(2, dtype=int)
    walk = Walk(nats, rounds, rounds, counted, nats, none, none)
    assert nats_of_rounds([walk]).value == nats_of_rounds([walk], 3).value
    assert nats_of_rounds([walk], 3).value == pytest.approx(walk.nats_per_token().value)
    assert nats_of_rounds([walk], 2).value == pytest.approx(np.mean([0, 1, 3, 4, 6, 7, 9, 10]))
    assert nats_of_rounds([walk], 1).value == pytest.approx(np.mean([0, 3, 6, 9]))
    assert nats_of_rounds([walk, walk], 3).n == 4


def test_every_turn_takes_trajectories_of_its_own_and_the_prompts_in_turn():
    teacher = shuffle_teacher(4)
    walks = Walks(teacher, [[], []], 4, "entropy", 1.0, seed=0, per_turn=3)
    first, second = walks._rows(0), walks._rows(1)
    assert first.row_ids.tolist() == [0, 1, 2] and second.row_ids.tolist() == [3, 4, 5]
    assert torch.equal(first.order[0], torch.arange(4))


def test_the_first_trajectories_are_spread_over_all_prompts():
    assert [spread_over(row, 1) for row in range(4)] == [0] * 4
    assert {spread_over(row, 18) // 6 for row in range(4)} == {0, 1, 2}
    assert {spread_over(row, 8) for row in range(32)} == set(range(8))


def test_an_exact_update_has_no_nats_and_the_marginal_has_some():
    teacher = shuffle_teacher(4)
    walks = Walks(teacher, [[]], 4, "left_to_right", 1.0, seed=0, per_turn=20)
    exact, none = UpdateCase("joint"), UpdateCase("none")
    walks.add((exact, 4), OracleUpdate(teacher))
    walks.add((none, 4), NoUpdate())
    assert walks.nats(exact, 4).value == pytest.approx(0, abs=1e-6)
    assert walks.nats(none, 4).value > 0.1 and walks.nats(none, 4).n == 20
    assert walks.nats(none, 2) is None  # a walk of one round tells nothing of shorter ones


def test_sizes_are_rounded_up_to_powers_of_two():
    assert [up_to_a_power_of_two(n) for n in (0, 1, 2, 3, 8, 9)] == [0, 1, 2, 4, 8, 16]


def test_a_turn_has_about_as_many_tokens_at_every_length_and_more_rows_over_prompts():
    assert [trajectories(length, 1) for length in (4, 32, 64, 96, 1024)] == [8, 6, 3, 2, 2]
    assert [trajectories(length, 18) for length in (32, 96)] == [6, 4]
