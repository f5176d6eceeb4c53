"""The pick: pure functions of a table of candidates."""

from __future__ import annotations

import random

import pytest

from jointsampler import UserError
from jointsampler.evaluation.stats import Interval
from jointsampler.tuning import BUDGET, Candidate, frontier, pick
from jointsampler.tuning.picking import beaten


def candidate(speedup: float, nats: float | None, k: int = 2) -> Candidate:
    return Candidate(
        update="refresh", columns=8, policy="near", sampler=None, rule=None,
        settings={"k": k}, reveals=None, update_seconds=0.1, seconds_per_token=1 / speedup,
        speedup=speedup, nats=None if nats is None else Interval(value=nats, low=nats, high=nats, n=2),
    )  # fmt: skip


SEQUENTIAL = candidate(1.0, 0.0, k=1)


def tables(count: int) -> list[list[Candidate]]:
    """Random tables of 1 to 30 candidates, with ties, unmeasured and slow ones, sequential among them."""
    draw = random.Random(0)

    def one() -> Candidate:
        nats = draw.choice([None, 0.0, 0.01, 0.02, draw.random()])
        return candidate(draw.choice([0.5, 1.0, 2.0, 5 * draw.random() + 0.1]), nats)

    return [[SEQUENTIAL, *(one() for _ in range(draw.randrange(30)))] for _ in range(count)]


def better(one: Candidate, other: Candidate) -> bool:
    """At least as fast and as faithful, and more so in one of the two."""
    a, b = (one.speedup, -one.nats.value), (other.speedup, -other.nats.value)
    return a != b and a[0] >= b[0] and a[1] >= b[1]


@pytest.mark.parametrize("table", tables(40))
def test_the_frontier_is_what_nothing_beats_and_everything_else_is_beaten(table):
    measured = [each for each in table if each.nats is not None]
    best = frontier(table)
    assert best == sorted(best, key=lambda each: each.speedup)
    for each in measured:
        if any(better(other, each) for other in measured):
            assert each not in best
        else:
            assert any(e.speedup == each.speedup and e.nats == each.nats for e in best)


@pytest.mark.parametrize("table", tables(40))
def test_a_pick_is_on_the_frontier_within_its_budget_and_the_fastest_there(table):
    measured = [each for each in table if each.nats is not None]
    for budget in (0, 0.01, 0.02, 0.5, 2.0):
        found = pick(table, budget=budget)
        assert found in frontier(table) and found.nats.value <= budget
        assert all(e.speedup <= found.speedup for e in measured if e.nats.value <= budget)


@pytest.mark.parametrize("table", tables(40))
def test_a_pick_for_a_speed_is_the_most_faithful_one_that_fast(table):
    measured = [each for each in table if each.nats is not None]
    fastest = max(each.speedup for each in measured)
    for speed in (0.3, 1.0, 2.0, 4.0):
        if speed > fastest:
            with pytest.raises(UserError, match=f"the fastest is .* at {fastest:.2f}x"):
                pick(table, speed=speed)
            continue
        found = pick(table, speed=speed)
        assert found in frontier(table) and found.speedup >= speed
        assert all(e.nats.value >= found.nats.value for e in measured if e.speedup >= speed)


def test_a_candidate_is_within_a_budget_with_its_whole_interval():
    wide = candidate(3, 0.01)
    wide = wide.model_copy(update={"nats": Interval(value=0.01, low=0.0, high=0.03, n=2)})
    assert pick([SEQUENTIAL, candidate(2, 0.005), wide], budget=0.02).speedup == 2
    unbounded = wide.model_copy(update={"nats": Interval(value=0.01, n=1)})
    assert pick([SEQUENTIAL, unbounded], budget=0.02) == SEQUENTIAL


def test_without_an_aim_the_budget_is_the_default_one():
    table = [SEQUENTIAL, candidate(2, BUDGET), candidate(3, 2 * BUDGET)]
    assert pick(table) == table[1] == pick(table, budget=BUDGET)


def test_a_budget_of_zero_is_sequential_unless_something_faster_is_exact():
    assert pick([SEQUENTIAL, candidate(3, 0.001)], budget=0) == SEQUENTIAL
    exact = candidate(3, 0.0)
    assert pick([SEQUENTIAL, exact], budget=0) == exact


def test_beaten_clearly_means_a_fifth_more_nats_at_no_more_speed():
    mine = candidate(2, 0.012)
    assert not beaten(mine, [mine, candidate(2, 0.011), candidate(1.9, 0.001), candidate(9, None)])
    assert beaten(mine, [candidate(2, 0.0099)])


@pytest.mark.parametrize(
    ("aim", "said"),
    [
        ({"budget": 0.1, "speed": 2}, "give one"),
        ({"budget": -0.1}, "nats per token from 0, not -0.1"),
        ({"budget": float("nan")}, "nats per token from 0"),
        ({"speed": 0}, "positive multiple of sequential's, not 0"),
    ],
)
def test_an_aim_out_of_range_is_refused(aim, said):
    with pytest.raises(UserError, match=said):
        pick([SEQUENTIAL], **aim)
