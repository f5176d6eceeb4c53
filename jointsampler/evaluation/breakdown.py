"""Where the KL of a walk arises: by mask ratio, place in the round, distance to a revealed token.

``kl.py`` measures the nats of every reveal; here they are sorted into bins. On the
recorded path both models stand at the same states, so captured dependency compares
equal reveals; on the other paths a bin holds each model's own reveals there.
"""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np

from .kl import Walk
from .measured import Axis, Bin
from .stats import bootstrap

# The last place of each bin; a further bin without an end follows where places are whole numbers.
LAST: dict[Axis, tuple[float, ...]] = {
    "mask_ratio": (0.25, 0.5, 0.75, 1.0),
    "step": (1, 2, 3, 4, 5, 6, 7, 15, 31),
    "distance": (1, 2, 4, 8, 16),
}


def places(walk: Walk) -> dict[Axis, np.ndarray]:
    """[n, L] float64 per axis: the place of each reveal; nan where there is none.

    - ``mask_ratio``: the masked share of the response's L positions before the reveal.
    - ``step``: reveals of the round before it. 0, a round's first, comes from the full
      pass and has no KL, so it has no place on this axis.
    - ``distance``: positions to the nearest token that the same round has revealed;
      no place for a round's first.
    """
    n, length = walk.position.shape
    made = walk.position >= 0
    slots = np.arange(length)
    first = np.diff(walk.round, axis=1, prepend=-1) != 0
    opened = np.maximum.accumulate(np.where(first, slots, 0), axis=1)  # slot of the round's first
    step = slots - opened
    distance = np.full((n, length), np.nan)
    for back in range(1, int(step[made].max(initial=0)) + 1):
        gap = np.abs(walk.position[:, back:] - walk.position[:, :-back]).astype(float)
        gap[step[:, back:] < back] = np.nan  # of an earlier round
        distance[:, back:] = np.fmin(distance[:, back:], gap)
    follows = made & (step > 0)
    return {
        "mask_ratio": np.where(made, 1 - slots / length, np.nan),
        "step": np.where(follows, step, np.nan),
        "distance": np.where(follows, distance, np.nan),
    }


def breakdown(walk: Walk, marginal: Walk | None = None) -> dict[Axis, list[Bin]]:
    """The bins of every axis that hold a counted reveal.

    ``marginal``: the marginal model's walk along the same trajectories at the same k,
    for captured dependency. A last partial round counts, as in the nats per token.
    """
    mine = places(walk)
    theirs = None if marginal is None else places(marginal)
    found: dict[Axis, list[Bin]] = {}
    for axis in get_args(Axis):
        found[axis] = []
        whole = axis != "mask_ratio"
        lasts = [*LAST[axis], *([np.inf] if whole else [])]
        for after, last in itertools.pairwise([0, *lasts]):
            own = _sums(walk, mine[axis], after, last)
            base = None if theirs is None else _sums(marginal, theirs[axis], after, last)
            if own[:, 1].any():
                low, high = after + 1 if whole else after, None if last == np.inf else last
                found[axis].append(_bin(low, high, own, base))
    return found


def _sums(walk: Walk, place: np.ndarray, after: float, last: float) -> np.ndarray:
    """[n, 2]: nats and counted reveals of each trajectory at places in (after, last]."""
    inside = (place > after) & (place <= last) & walk.counted
    return np.stack([(walk.nats * inside).sum(1), inside.sum(1)], axis=1)


def _bin(low: float, high: float | None, own: np.ndarray, base: np.ndarray | None) -> Bin:
    """Intervals over the trajectories that have reveals there, for captured in both walks."""
    nats = bootstrap(_ratio, own[own[:, 1] > 0])
    captured = None
    if base is not None:
        both = np.concatenate([own, base], axis=1)[(own[:, 1] > 0) & (base[:, 1] > 0)]
        if both[:, 2].any():
            captured = bootstrap(lambda mean: 1 - _ratio(mean) / _ratio(mean[..., 2:]), both)
    return Bin(low=low, high=high, reveals=int(own[:, 1].sum()), nats=nats, captured=captured)


def _ratio(mean: np.ndarray) -> np.ndarray:
    """Nats per reveal of column means [..., 2 or more]."""
    return mean[..., 0] / mean[..., 1]
