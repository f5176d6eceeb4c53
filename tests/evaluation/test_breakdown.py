"""The breakdown sorts every reveal into one bin, and finds errors where they were put."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler import Refresh, Trajectories, block_kl, generate
from jointsampler.evaluation.breakdown import breakdown, places
from jointsampler.evaluation.kl import Walk
from tests.support.analytic import OracleUpdate, skewed_teacher


def walk_of(position: list[list[int]], rounds: list[list[int]], nats=None) -> Walk:
    position, rounds = np.array(position), np.array(rounds)
    nats = np.zeros(position.shape) if nats is None else np.array(nats, dtype=float)
    blank = np.zeros(len(position), dtype=int)
    return Walk(nats, position, rounds, position >= 0, np.full(nats.shape, np.nan), blank, blank)


def test_the_places_of_a_small_walk_by_hand():
    walk = walk_of([[4, 0, 5, 1, 7, 6, 3, 2], [2, 3, 0, -1, -1, -1, -1, -1]],
                   [[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, -1, -1, -1, -1, -1]])  # fmt: skip
    found, nan = places(walk), np.nan
    assert found["mask_ratio"][0].tolist() == [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    expected = {
        "step": [[nan, 1, 2, nan, 1, nan, 1, 2], [nan, 1] + [nan] * 6],
        # 5 is next to 4, not to 0; 7 is 6 from 1, the only other of its round.
        "distance": [[nan, 4, 1, nan, 6, nan, 3, 1], [nan, 1] + [nan] * 6],
    }
    for axis, values in expected.items():
        assert np.array_equal(found[axis], np.array(values), equal_nan=True)


def test_every_counted_reveal_is_in_one_bin_of_each_axis_and_their_nats_add_up(tiny):
    out = generate(tiny, method="sequential", num_samples=4, max_new_tokens=8, seed=5)
    rows = Trajectories.from_generation(out, 5, tiny)
    for path in ("recorded", "own"):
        base, own = block_kl(tiny, Refresh(4), rows, k=4, path=path).walks
        found = breakdown(own, base)
        total, count = own.units().sum(0)
        # A round's first reveal has no KL, and no place on two of the axes.
        counts = {"mask_ratio": count, "step": count * 3 / 4, "distance": count * 3 / 4}
        for axis, bins in found.items():
            assert sum(b.reveals for b in bins) == counts[axis]
            nats = sum(b.nats.value * b.reveals for b in bins)
            assert nats == pytest.approx(total, rel=1e-9)
        for b in found["step"]:
            assert b.captured.value == pytest.approx(
                1 - _at_step(own, b.low) / _at_step(base, b.low)
            )


def _at_step(walk: Walk, step: int) -> float:
    return walk.nats[:, int(step) :: 4].mean()


def test_an_error_put_at_one_distance_is_found_there_alone():
    """Nats of 2 where a reveal is 3 from its round's nearest, 0 elsewhere; the marginal model has 4."""
    position = [[0, 1, 4, 7, 8, 11], [3, 0, 1, 9, 6, 5]]
    rounds = [[0, 0, 0, 1, 1, 1]] * 2
    base = walk_of(position, rounds, [[0, 4, 4, 0, 4, 4]] * 2)
    own = walk_of(position, rounds, [[0, 0, 2, 0, 0, 2], [0, 2, 0, 0, 2, 0]])
    found = {(b.low, b.high): b for b in breakdown(own, base)["distance"]}
    assert found[1, 1].nats.value == 0 and found[1, 1].captured.value == 1
    assert found[3, 4].nats.value == 2 and found[3, 4].captured.value == 0.5
    assert set(found) == {(1, 1), (3, 4)} and found[3, 4].nats.n == 2


def test_an_update_without_error_has_no_nats_in_any_bin():
    teacher = skewed_teacher(3)
    out = generate(teacher, method="sequential", num_samples=20, max_new_tokens=4)
    rows = Trajectories.from_generation(out, 0, teacher)
    base, own = block_kl(teacher, OracleUpdate(teacher), rows, k=4).walks
    found = breakdown(own, base)
    opening = found["mask_ratio"].pop()  # the full pass's own reveal, where nothing is to capture
    assert (opening.low, opening.captured) == (0.75, None)
    for bins in found.values():
        for b in bins:
            assert b.nats.value == pytest.approx(0, abs=1e-5)
            assert b.captured.value == pytest.approx(1, abs=1e-5)


def test_one_trajectory_gives_no_bounds():
    own = walk_of([[0, 1]], [[0, 0]], [[0, 3]])
    (only,) = breakdown(own)["step"]
    assert only.nats.value == 3 and only.nats.low is None and only.captured is None
