"""From measured candidates to one: the Pareto frontier, and the pick for a budget or a speed.

Pure functions of a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..evaluation.results import frontier as best_pairs
from .results import Candidate

# Nats per token. At most a factor exp(-0.02) on the likelihood of a token; a refresh of 8 columns
# has it at k = 8 on 96 tokens of code.
BUDGET = 0.02
CLEARLY = 1.2  # times fewer nats; a smaller advantage may be the few trajectories


def check_aim(budget: float | None, speed: float | None) -> None:
    """UserError unless at most one of a budget and a speed is given, in range."""
    if budget is not None and speed is not None:
        raise UserError("A budget and a speed were given: give one, the other follows from it.")
    if budget is not None and not budget >= 0:
        raise UserError(f"A budget is a number of nats per token from 0, not {budget}.")
    if speed is not None and not speed > 0:
        raise UserError(f"A speed is a positive multiple of sequential's, not {speed}.")


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The measured candidates that no other beats in speed and nats, slowest first."""
    measured = [candidate for candidate in candidates if candidate.nats is not None]
    by_pair = {(each.speedup, each.nats.value): each for each in reversed(measured)}
    return [by_pair[pair] for pair in best_pairs(by_pair)]


def beaten(mine: Candidate, others: list[Candidate]) -> bool:
    """Whether one of ``others`` is as fast as ``mine`` or faster, with clearly fewer nats."""
    if mine.nats is None:
        return False
    return any(
        other.nats is not None
        and other.speedup >= mine.speedup
        and CLEARLY * other.nats.value < mine.nats.value
        for other in others
    )


def pick(
    candidates: Sequence[Candidate], budget: float | None = None, speed: float | None = None
) -> Candidate:
    """The fastest candidate within ``budget``, or the most faithful one with at least ``speed``.

    ``budget``: nats per token that the upper bound of a candidate's interval may have,
    :data:`BUDGET` where neither is given; ``speed``: times
    sequential. Candidates without measured nats are left out. The pick is on the frontier.

    Raises UserError: both are given, one out of range, no candidate that fast.
    """
    check_aim(budget, speed)
    best = frontier(candidates)
    if speed is None:
        limit = BUDGET if budget is None else budget
        within = [each for each in best if each.at_most <= limit]
        return within[-1]  # sequential at least, with 0 nats
    for candidate in best:  # the slower, the more faithful
        if candidate.speedup >= speed:
            return candidate
    raise UserError(
        f"Nothing measured here reaches {speed:g}x sequential: the fastest is {best[-1]} at "
        f"{best[-1].speedup:.2f}x."
    )
