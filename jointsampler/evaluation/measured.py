"""The statistical parts of results.json: breakdowns of a KL, units, paired differences, curves.

``results.py`` puts them into the schema. What they hold is computed in
``breakdown.py``, ``differences.py`` and ``parallelism.py``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from .stats import Interval


class Part(BaseModel):
    """A part of results.json. The strings below the fields are their descriptions in the JSON schema."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


# Where a reveal stands: the masked share of the response before it, the reveals of its round
# before it, the distance in positions to the nearest token that its round has revealed.
Axis = Literal["mask_ratio", "step", "distance"]

# Quantities that are ratios of sums over independent units, in the order of the summary.
Metric = Literal[
    "nats_per_token",
    "nats_per_token_own",
    "nats_per_token_own_on_tasks",
    "nats_per_token_sampled_on_tasks",
    "nll",
    "accuracy",
    "task_tokens_per_pass",
    "task_tokens_per_cost",
]

# The metric of the KL by path, on text and on tasks.
NATS: dict[str, Metric] = {"recorded": "nats_per_token", "own": "nats_per_token_own"}
NATS_ON_TASKS: dict[str, Metric] = {
    "own": "nats_per_token_own_on_tasks",
    "sampled": "nats_per_token_sampled_on_tasks",
}


class Bin(Part):
    """The KL of the reveals that lie between two places on an axis."""

    low: float
    """Least place on the axis; a mask ratio lies above it, the other axes hold it."""
    high: float | None
    """Last place, included; null where the bin has no end."""
    reveals: int
    """Reveals that were counted."""
    nats: Interval
    """KL(teacher || method) in nats per reveal; the units are trajectories."""
    captured: Interval | None = None
    """1 - nats / nats of marginal at the same k in the same bin; null where that is not defined."""


class Units(Part):
    """A metric unit by unit: it is sum(over) / sum(under).

    Unit i of every row of one file has the same prompt and seed, so rows can be compared in pairs.
    """

    over: list[float]
    """Numerator of each unit, to six digits."""
    under: list[float]
    """Denominator of each unit."""


class Difference(Part):
    """One metric of two rows on the same prompts and seeds, by paired bootstrap over units."""

    metric: Metric
    """What is compared."""
    row: str
    """Title of the row, for example "refresh, k = 4"."""
    against: str
    """Title of the other row."""
    value: Interval
    """The first row's value minus the other's."""

    @property
    def known(self) -> bool:
        """Whether the interval excludes 0."""
        low, high = self.value.low, self.value.high
        return low is not None and high is not None and not low <= 0 <= high

    def __str__(self) -> str:
        if self.known:
            return f"{self.value.value:+.4g} [{self.value.low:+.4g}, {self.value.high:+.4g}], n = {self.value.n}"
        return f"no difference at n = {self.value.n}"


class CurvePoint(Part):
    """A method at one setting, on the task prompts."""

    title: str
    """Of the row."""
    accuracy: Interval
    """Share of the prompts that were answered correctly."""
    tokens_per_pass: float
    """Per teacher pass, on these prompts."""
    tokens_per_cost: float
    """The same with every verified prefix a row and updates at their measured cost."""


class At(Part):
    """A curve read off at a level. A speed is tokens per cost, relative to sequential's."""

    level: float
    """The speed, or the share of sequential's accuracy."""
    value: Interval
    """Accuracy at that speed, or the speed at that accuracy; the units are prompts."""


class Curve(Part):
    """A method's accuracy against its parallelism, from sequential to its fastest setting.

    Between two settings accuracy and cost per token are interpolated linearly, as if some prompts
    took one setting and the others the next. All prompts of all tasks are pooled.
    """

    label: str
    """The method, and its update where the name leaves it open."""
    points: list[CurvePoint]
    """By rising tokens per cost, sequential included."""
    aup: Interval
    """Accuracy under parallelism (arXiv 2601.07568) with tokens per teacher pass; accuracy in percent."""
    aup_cost: Interval
    """The same with tokens per cost in place of tokens per pass."""
    accuracy_at: list[At]
    """Accuracy at matched cost: at the speeds that the curve reaches."""
    cost_at: list[At]
    """Cost at matched accuracy: the speed at shares of sequential's accuracy."""
