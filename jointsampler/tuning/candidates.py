"""What tuning chooses from: updates, ends of a round, and the seconds that a pair of them takes.

Plain data: no model, no device. Seconds and nats are measured in ``measure.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..decoding.methods import get_method
from ..decoding.stops import FixedK, StopRule

COLUMNS = (4, 8, 16, 32)  # that a refresh may recompute
SCREENED = 8  # columns at which the column policies are compared with each other


@dataclass(frozen=True)
class UpdateCase:
    """An update by its settings. ``sampler``: the fingerprint of a joint sampler's weights."""

    update: Literal["none", "refresh", "joint"]
    columns: int | None = None  # None: no columns, or all of them
    policy: str | None = None
    sampler: str | None = None


@dataclass(frozen=True)
class RuleCase:
    """A method whose stop rule ends the rounds, without an update, and the rule's one setting."""

    method: str
    setting: str
    value: float


# The published rules on the full pass alone, from careful to fast.
RULES = (
    RuleCase("threshold", "threshold", 0.95),
    RuleCase("threshold", "threshold", 0.9),
    RuleCase("threshold", "threshold", 0.7),
    RuleCase("factor", "factor", 0.5),
    RuleCase("entropy_bound", "bound", 0.1),
    RuleCase("entropy_bound", "bound", 0.5),
)
Rounds = int | RuleCase  # how rounds end: after k reveals, or by a rule


def stop_rule(rounds: Rounds, length: int) -> StopRule:
    """The rule of ``rounds`` for responses of ``length``."""
    if isinstance(rounds, int):
        return FixedK(rounds)
    return get_method(rounds.method).stop(1, length, {rounds.setting: rounds.value})


def column_counts(positions: int) -> list[int]:
    """Columns of a refresh that are worth a try on a canvas of ``positions``: fewer than all."""
    return [count for count in COLUMNS if count < positions]


def round_lengths(length: int) -> list[int]:
    """Reveals per round: 2, 4, 8, ... and at last the whole response of ``length`` tokens."""
    powers = [2**n for n in range(1, length.bit_length()) if 2**n < length]
    return [*powers, length] if length > 1 else []


def walked(k: int, length: int) -> int:
    """The k of the walk that the nats at ``k`` are read off, by the age of the round.

    One walk in rounds of 8 serves k = 2, 4 and 8, one in rounds of 32 serves 16 and 32,
    because its rounds begin all along the response. A walk with fewer than three rounds
    serves itself alone: the first half of its round saw the emptier canvas.
    """
    for longest in (8, 32, 128, 512):
        if k <= longest:
            return longest if 3 * longest <= length else k
    return k


def seconds_per_token(full: float, update: float, k: int, length: int, batch: int) -> float:
    """Seconds of a response of ``length`` tokens in rounds of k, per token of all ``batch`` rows.

    ``full`` and ``update``: seconds of a full pass and of an update on the whole batch,
    each with the reveal after it.
    """
    rounds = -(-length // k)
    return (rounds * full + (length - rounds) * update) / (length * batch)


def seconds_by_rule(
    full: float,
    single: float,
    reveal: float,
    rows: Sequence[Sequence[int]],
    length: int,
    batch: int,
) -> float:
    """The same where a rule ends the rounds, row by row; rows: the reveals of each round of some rows.

    A batch goes on until its last row ends: finished rows leave it where they are half or
    more. Its rows are taken at even quantiles of those seen. In a round it makes as many
    reveals as its longest row, and one more that the rule refuses. ``single``: seconds of a
    full pass on one row; with other numbers of rows it takes time on the line between.
    ``reveal``: seconds of a reveal without an update, taken to be the same on fewer rows.
    """
    made = np.concatenate([np.asarray(row) for row in rows])
    # Rounds that a response of the whole length takes, by row.
    each = np.array([len(row) * length / sum(row) for row in rows])
    ends = np.sort(np.quantile(each, (np.arange(batch) + 0.5) / batch))
    each_row = (full - single) / max(1, batch - 1)
    size, begun, passes, spent = batch, 0.0, 0.0, 0.0  # spent: seconds in full passes
    while size:
        until = ends[batch - size + (size - 1) // 2]  # when half have ended
        passes += until - begun
        spent += (until - begun) * (single + each_row * (size - 1))
        begun, size = until, size // 2
    values, times = np.unique(made, return_counts=True)
    no_more = (times.cumsum() / len(made)) ** batch  # that no row of the batch has more
    longest = float((values * np.diff(no_more, prepend=0.0)).sum())
    return (spent + passes * longest * reveal) / (length * batch)
