"""What a sampler buys: fidelity at a speed, or speed at a fidelity, whatever its width and k.

A sampler is a curve: for every k, how many tokens one unit of cost makes
(k / (1 + (k - 1) c), c a sampler pass in teacher passes, and where there is a
window what a block's first pass adds) and how many nats per
token it is off the true joint (block KL / k). One token per pass is the curve's
exact end. Between two k the line is what mixing blocks of both lengths gives:
cost and nats per token both average. Captured dependency cannot be compared
across k, because its denominator changes with k; this can.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np


def speed(k: int, ratio: float, first: float = 0.0) -> float:
    """Tokens per unit of cost of blocks of k, in teacher passes.

    ``ratio``: a sampler pass; ``first``: what a block's first one costs beyond that.
    """
    return k / (1 + (k - 1) * ratio + (first if k > 1 else 0.0))


def curve(nats: Mapping[int, float], ratio: float, first: float = 0.0) -> list[tuple[float, float]]:
    """(cost per token, nats per token) by rising cost; ``nats`` per token at each k."""
    known = {1: 0.0, **nats}
    return sorted((1 / speed(k, ratio, first), value) for k, value in known.items())


def nats_at_speed(
    nats: Mapping[int, float], ratio: float, target: float, first: float = 0.0
) -> float:
    """Nats per token at ``target`` tokens per unit of cost; inf where no measured k is that fast."""
    costs, values = zip(*curve(nats, ratio, first), strict=True)
    if 1 / target < costs[0] - 1e-12:
        return float("inf")
    return float(np.interp(1 / target, costs, values))


def speed_at_nats(
    nats: Mapping[int, float], ratio: float, most: float, first: float = 0.0
) -> float:
    """Most tokens per unit of cost at ``most`` nats per token; at least 1, which is exact."""
    points = curve(nats, ratio, first)
    best = 1.0
    for (cost, value), (slower, closer) in itertools.pairwise(points):
        if value <= most:
            best = max(best, 1 / cost)
        elif closer <= most:  # the line between the two crosses the bound
            share = (value - most) / (value - closer)
            best = max(best, 1 / (cost + share * (slower - cost)))
    return best
