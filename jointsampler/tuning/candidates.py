"""What tuning chooses from: updates, lengths of a round, and the seconds that a pair of them takes.

Plain data: no model, no device. Seconds and nats are measured in ``measure.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COLUMNS = (4, 8, 16, 32)  # that a refresh may recompute
SCREENED = 8  # columns at which the column policies are compared with each other


@dataclass(frozen=True)
class UpdateCase:
    """An update by its settings. ``sampler``: the fingerprint of a joint sampler's weights."""

    update: Literal["none", "refresh", "joint"]
    columns: int | None = None  # None: no columns, or all of them
    policy: str | None = None
    sampler: str | None = None


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
