"""The result of a benchmark: one schema for measured and predicted figures, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Figure(Part):
    """A measured median with its quartiles, or a predicted value without them."""

    value: float
    low: float | None = None  # first quartile
    high: float | None = None  # third quartile
    predicted: bool

    @model_validator(mode="after")
    def _spread_is_measured(self) -> Figure:
        if self.predicted != (self.low is None) or self.predicted != (self.high is None):
            raise ValueError("a measured figure has quartiles, a predicted one has none")
        return self

    @classmethod
    def measured(cls, values: Sequence[float]) -> Figure:
        low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (
            [values[0]] * 3
        )  # fmt: skip
        return cls(value=middle, low=low, high=high, predicted=False)

    @classmethod
    def prediction(cls, value: float) -> Figure:
        return cls(value=value, predicted=True)

    def scaled(self, factor: float) -> str:
        """The figure times ``factor`` as text; a prediction says that it is one."""
        if self.predicted:
            return f"{_short(self.value * factor)} predicted"
        spread = f"{_short(self.low * factor)}, {_short(self.high * factor)}"
        return f"{_short(self.value * factor)} [{spread}]"


class Step(Part):
    """One step of the decoding loop on a canvas of which half is revealed."""

    name: str
    batch: int
    length: int  # response tokens
    seconds: Figure  # a full pass or an update, and the reveal after it
    ratio: float  # c: seconds in full passes
    # From the cost model, in full passes; None where it does not cover the teacher's network.
    operations: float | None
    weight_bytes: float | None


class Speed(Part):
    """A whole response of every row."""

    name: str
    k: int
    reference: bool  # the plain recipe, not this library's loop
    batch: int
    length: int
    tokens_per_second: Figure  # of all rows; every response token counts
    speedup: float  # tokens per second over those of sequential


class Benchmark(Part):
    teacher: str
    device: str
    dtype: str
    threads: int | None  # of torch; None in a prediction
    predicted: bool
    efficiency: float | None  # the share of the device's peaks that a prediction assumes
    policy: str
    steps: list[Step]
    speeds: list[Speed]
    machine: dict[str, Any]  # where it was measured or computed
    packages: dict[str, str]

    def table(self) -> str:
        """Two tables as text: steps, then whole responses."""
        lines = [self._heading(), ""]
        head = (
            "step",
            "batch",
            "length",
            "milliseconds",
            "c",
            "operations (counted)",
            "weight bytes (counted)",
        )
        lines += _columns([head, *(_step_cells(step) for step in self.steps)])
        head = ("method", "k", "batch", "length", "tokens/s", "x sequential")
        lines += ["", *_columns([head, *(_speed_cells(speed) for speed in self.speeds)])]
        return "\n".join(lines)

    def _heading(self) -> str:
        what = f"{self.teacher}, {self.dtype}, column policy {self.policy}"
        if self.predicted:
            return (
                f"PREDICTED for {self.device}, nothing was run: {what}; {self.efficiency:.0%} of the "
                "device's peaks assumed"
            )
        return f"measured on {self.device}: {what}; {self.threads} threads; [quartiles]"


def _step_cells(step: Step) -> tuple[str, ...]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    mark = " predicted" if step.seconds.predicted else ""
    return (
        step.name, str(step.batch), str(step.length), step.seconds.scaled(1e3),
        f"{step.ratio:.3f}{mark}", share(step.operations), share(step.weight_bytes),
    )  # fmt: skip


def _speed_cells(speed: Speed) -> tuple[str, ...]:
    mark = " predicted" if speed.tokens_per_second.predicted else ""
    return (
        speed.name, str(speed.k), str(speed.batch), str(speed.length),
        speed.tokens_per_second.scaled(1), f"{speed.speedup:.2f}{mark}",
    )  # fmt: skip


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
