"""Stages and their manifest: what was done, with which inputs, and whether to skip it.

``OUT/manifest.json`` holds one entry per finished stage with the key of its
plan; a stage whose entry has the same key and whose outputs are there is
skipped. What a stage does is in its own file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from jointsampler import __version__
from jointsampler.errors import UserError

MANIFEST = "manifest.json"


class Plan(Protocol):
    """What would run: frozen, built without starting anything."""

    out: Path

    @property
    def stage(self) -> str: ...

    @property
    def key(self) -> str:
        """A digest of everything that decides the stage's outputs."""

    def intact(self) -> bool:
        """Whether what the stage left behind is still there, whole."""


def digest(*parts: Any) -> str:
    """A short digest of JSON-able parts and of this package's version."""
    text = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path, data: Any) -> None:
    """Atomically: readers see the old file or the new one. UserError where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(data, indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror}. What is complete stays; run again once there is "
            "room and permission."
        ) from None


def read_manifest(out: Path) -> dict[str, Any]:
    path = out / MANIFEST
    if not path.exists():
        return {"version": __version__, "stages": {}}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON ({error}): delete it to run every stage again."
        ) from None


def finished(plan: Plan) -> dict[str, Any] | None:
    """The results of ``plan`` if it has already run with the same inputs, else None."""
    entry = read_manifest(plan.out)["stages"].get(plan.stage)
    if entry and entry["key"] == plan.key and plan.intact():
        return entry["results"]
    return None


def require(plan: Plan) -> dict[str, Any]:
    """The results of an earlier stage; UserError if it has not run with these inputs."""
    results = finished(plan)
    if results is None:
        raise UserError(
            f"Stage {plan.stage} has not run in {plan.out} with this configuration: run "
            f"workflows/{plan.stage}.py with the same --config, --out and overrides first."
        )
    return results


def run_once(plan: Plan, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """``run()`` and record its results, or skip it if it has been done."""
    done = finished(plan)
    if done is not None:
        print(f"{plan.stage}: nothing changed, skipped", flush=True)
        return done
    begin = time.monotonic()
    results = run()
    manifest = read_manifest(plan.out)
    manifest["version"] = __version__
    manifest["stages"][plan.stage] = {
        "key": plan.key,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begin, 1),
        "results": results,
    }
    write_json(plan.out / MANIFEST, manifest)
    print(f"{plan.stage}: done in {time.monotonic() - begin:.0f} s", flush=True)
    return results


class Progress:
    """One line every few seconds: done, rate, time left."""

    def __init__(self, stage: str, total: int, unit: str, every_s: float = 5.0):
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.done, self.skipped = 0, 0
        self.begin = self.shown = time.monotonic()

    def skip(self, count: int) -> None:
        """What an earlier run has done: it counts, but not as this run's rate."""
        self.skipped += count

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        done = self.skipped + self.done
        if now - self.shown < self.every_s and done < self.total:
            return
        self.shown = now
        rate = self.done / max(now - self.begin, 1e-9)
        left = (self.total - done) / max(rate, 1e-9)
        print(
            f"{self.stage}: {done}/{self.total} {self.unit}, {rate:.1f} {self.unit}/s, {left:.0f} s left",
            flush=True,
        )
