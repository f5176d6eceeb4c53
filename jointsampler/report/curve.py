"""The learning curve of a training as a file: one JSON object per report, one report per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class CurvePoint(BaseModel):
    """What a training reported at one step."""

    model_config = ConfigDict(extra="forbid")

    step: int
    loss: float | None = None  # mean since the report before; None where only a validation was due
    captured: dict[int, float] = {}  # k -> dependency captured on the validation rows
    nats: dict[int, float] = {}  # k -> KL to the true joint there, nats per token


def append_report(path: Path, report: Mapping[str, Any]) -> None:
    """Add a training's report ("step", "loss", "captured_k4", "nats_k4", ...) to its curve."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(dict(report), default=str) + "\n")


def read_curve(path: Path) -> list[CurvePoint]:
    """The curve by step; empty where there is none.

    A training that went on from a checkpoint reports some steps again: the last
    report counts. A line that a crash cut off is left out.
    """
    if not path.exists():
        return []
    points: dict[int, CurvePoint] = {}
    for line in path.read_text().splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        point = CurvePoint(
            step=report["step"],
            loss=report.get("loss"),
            captured=_at_each_k(report, "captured_k"),
            nats=_at_each_k(report, "nats_k"),
        )
        if point.loss is not None or point.captured:
            points[point.step] = point
    return [points[step] for step in sorted(points)]


def _at_each_k(report: Mapping[str, Any], start: str) -> dict[int, float]:
    return {int(key[len(start) :]): v for key, v in report.items() if key.startswith(start)}
