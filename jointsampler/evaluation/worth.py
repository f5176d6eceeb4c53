"""The worth of a sampler: fidelity at a speed, or speed at a fidelity, whatever its width and k.

A sampler is a curve: for every k, the tokens that one unit of cost makes
(k / (1 + (k - 1) c), with c the cost of an update in full passes) and the nats per
token to the true joint (KL per round / k). One token per full pass is the exact
end of the curve. Between two k the line is the mixture of rounds of both lengths:
cost and nats per token both average. Captured dependency cannot be compared
across k, because its denominator changes with k; this can.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from .results import KLPath, MethodResult, points


def speed(k: int, ratio: float) -> float:
    """Tokens per unit of cost of rounds of k, in full passes; ``ratio``: the cost of an update."""
    return k / (1 + (k - 1) * ratio)


def curve(nats: Mapping[int, float], ratio: float) -> list[tuple[float, float]]:
    """(cost per token, nats per token) by rising cost; ``nats`` per token at each k."""
    known = {1: 0.0, **nats}
    return sorted((1 / speed(k, ratio), value) for k, value in known.items())


def nats_at_speed(nats: Mapping[int, float], ratio: float, target: float) -> float:
    """Nats per token at ``target`` tokens per unit of cost; inf where no measured k is that fast."""
    costs, values = zip(*curve(nats, ratio), strict=True)
    if 1 / target < costs[0] - 1e-12:
        return float("inf")
    return float(np.interp(1 / target, costs, values))


def speed_at_nats(nats: Mapping[int, float], ratio: float, most: float) -> float:
    """Most tokens per unit of cost at ``most`` nats per token; at least 1, which is exact."""
    best = 1.0
    for (cost, value), (slower, closer) in itertools.pairwise(curve(nats, ratio)):
        if value <= most:
            best = max(best, 1 / cost)
        elif closer <= most:  # the line between the two crosses the bound
            share = (value - most) / (value - closer)
            best = max(best, 1 / (cost + share * (slower - cost)))
    return best


def at_equal_cost(
    rows: Sequence[MethodResult],
    label: str,
    against: str,
    path: KLPath = "own",
    tasks: bool = False,
) -> list[tuple[float, float, float]]:
    """(tokens per cost, nats of ``label``, nats of ``against`` there) wherever the latter reaches.

    ``against`` is interpolated between its settings and ``sequential``, by cost per token.
    """

    def of(*labels: str) -> list[tuple[float, float]]:
        found = points([r for r in rows if r.label in labels], tasks, path)
        return sorted((1 / tokens, nats) for tokens, nats in found)

    line = of(against, "sequential")
    if not line:
        return []
    costs, nats = zip(*line, strict=True)
    return [
        (1 / cost, value, float(np.interp(cost, costs, nats)))
        for cost, value in reversed(of(label))
        if costs[0] <= cost <= costs[-1]
    ]
