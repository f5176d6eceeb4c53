"""Random draws are pure functions of their keys, and uniform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from jointsampler import rng


def test_a_draw_depends_on_its_keys_alone():
    rows, positions = torch.arange(50)[:, None], torch.arange(40)[None]
    table = rng.uniform(7, rows, positions, rng.TOKEN)
    assert table.shape == (50, 40)
    assert table[13, 21] == rng.uniform(7, 13, 21, rng.TOKEN)
    assert torch.equal(table[10:20], rng.uniform(7, rows[10:20], positions, rng.TOKEN))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_draws_are_uniform_and_uncorrelated_along_every_key(axis):
    keys = [3, 5, 11, rng.TOKEN]
    keys[axis] = torch.arange(20_000)
    seed, *rest = keys
    if axis == 0:
        draws = torch.stack([rng.uniform(int(s), *rest) for s in seed[:4000]])
    else:
        draws = rng.uniform(seed, *rest)
    draws = draws.numpy()
    assert ((draws > 0) & (draws < 1)).all()
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / len(draws) ** 0.5


def test_streams_seeds_and_swapped_keys_differ():
    base = rng.uniform(1, 2, 3, rng.TOKEN)
    others = [
        rng.uniform(1, 2, 3, rng.ORDER),
        rng.uniform(2, 1, 3, rng.TOKEN),
        rng.uniform(1, 3, 2, rng.TOKEN),
    ]
    assert all(other != base for other in others)


def test_no_two_purposes_share_a_stream():
    streams = {
        name: value for name, value in vars(rng).items() if name.isupper() and name[0] != "_"
    }
    assert len(streams) > 5 and len(set(streams.values())) == len(streams)
