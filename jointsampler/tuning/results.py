"""The result of a tuning: one schema for the cache, the JSON file and the table."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..evaluation.stats import Interval


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(Part):
    """One update in rounds of k reveals, or none in the rounds of a stop rule."""

    update: Literal["none", "refresh", "joint"]
    columns: int | None
    policy: str | None
    sampler: str | None  # fingerprint of the joint sampler's weights
    rule: str | None  # the method whose stop rule ends rounds; None: after k reveals
    settings: dict[str, int | float]  # of ``generate``: k, or the rule's own
    reveals: list[list[int]] | None  # of each round of the rows that a rule was measured on
    update_seconds: float  # an update and the reveal after it, median
    seconds_per_token: float  # of all rows, by the cost model: full passes + updates
    speedup: float  # over one token per full pass
    nats: Interval | None  # per token at its own samples, over trajectories; None: not measured

    @property
    def at_most(self) -> float:
        """The upper bound of the nats' interval; infinite where one row gives none."""
        return math.inf if self.nats is None or self.nats.high is None else self.nats.high

    @property
    def k(self) -> int | None:
        """Reveals of a round; None where a rule ends it."""
        return self.settings.get("k")

    @property
    def method(self) -> str:
        """The method's name for ``generate``."""
        if self.rule is not None:
            return self.rule
        if self.k == 1:
            return "sequential"
        return "marginal" if self.update == "none" else self.update

    def __str__(self) -> str:
        if self.k == 1:
            return "sequential"
        parts = [self.method]
        if self.columns is not None:
            parts.append(f"{self.columns} columns by {self.policy}")
        settings = [f"{name} = {value:g}" for name, value in self.settings.items()]
        return ", ".join([*parts, *settings])

    def expected(self) -> str:
        """The candidate with its measured figures, as one line."""
        nats = "not measured" if self.nats is None else f"{self.nats.value:.4f} nats per token"
        return f"{self}: {self.speedup:.2f}x sequential, {nats}"


class Tuning(Part):
    """What was measured for one teacher, device, batch and length, and by what it is found again."""

    key: dict[str, Any]  # teacher, samplers, device, batch, length, ...: see situation.py
    predicted_for: str | None  # the device whose seconds a cost model predicted; None: measured
    full_seconds: float  # a full pass and the reveal after it
    single_seconds: float  # the same on one row
    candidates: list[Candidate]  # sequential first
    limit: float  # seconds after which no further walk began
    seconds: float  # that tuning took
    walks: int  # made
    complete: bool  # whether every candidate that may be on the frontier was measured

    @property
    def measured(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.nats is not None]
