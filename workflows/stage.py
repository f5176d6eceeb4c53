"""Stages, the out folder, and the manifest of the stages that have run.

``OUT/manifest.json`` holds one entry per finished stage with the key of its
plan. A stage whose entry has the same key and whose outputs are intact is
skipped. What a stage does is in its own file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from jointsampler import __version__, storage
from jointsampler.errors import UserError
from workflows.source import commit

MANIFEST = "manifest.json"
ProgressLog = Callable[..., None]  # of (stage, done, units per second, seconds left, **more)


class Plan(Protocol):
    """A description of what a stage will do: frozen, built without starting anything."""

    out: Path

    @property
    def stage(self) -> str: ...

    @property
    def key(self) -> str:
        """A digest of everything that determines the stage's outputs."""

    def intact(self) -> bool:
        """Whether the stage's outputs are all there and undamaged."""


def digest(*parts: Any) -> str:
    """A short digest of JSON-able parts and of this package's version."""
    text = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def out_folder(given: str, name: str = "--out") -> Path:
    """The absolute, writable folder that option ``name`` gives, created if need be.

    Raises UserError: relative inside a submitted job (whose working directory is
    a copy that Ray deletes), not a folder, not writable.
    """
    path = Path(given).expanduser()
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{name} {given!r} is relative, and a submitted job runs in a copy of the repository that "
            "Ray deletes: give an absolute path."
        )
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{name} {path} is not a writable folder: {error.strerror}.") from None
    return path


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
    results = recorded(plan)
    return results if results is not None and plan.intact() else None


def recorded(plan: Plan) -> dict[str, Any] | None:
    """The results of ``plan`` in the manifest, whether or not its outputs are still there."""
    entry = read_manifest(plan.out)["stages"].get(plan.stage)
    return entry["results"] if entry and entry["key"] == plan.key else None


def require(plan: Plan) -> dict[str, Any]:
    """The results of an earlier stage; UserError if it has not run with these inputs, or left no whole outputs."""
    results = finished(plan)
    if results is not None:
        return results
    if recorded(plan) is not None:
        raise UserError(
            f"Outputs of stage {plan.stage} in {plan.out} are missing or damaged: run jointsampler run "
            f"{plan.stage} with the same --config, --out and overrides again, which keeps undamaged ones."
        )
    raise UserError(
        f"Stage {plan.stage} has not run in {plan.out} with this configuration: run jointsampler "
        f"run {plan.stage} with the same --config, --out and overrides first."
    )


def recorded_times(out: Path) -> dict[str, dict[str, float]]:
    """By finished stage: "seconds", and "forecast_seconds" where there was a forecast.

    Of a stage that was cut off, the seconds of the attempt that finished it.
    """
    stages = read_manifest(out)["stages"].items()
    keys = ("seconds", "forecast_seconds")
    return {name: {key: s[key] for key in keys if s.get(key) is not None} for name, s in stages}


def run_once(
    plan: Plan,
    run: Callable[[], dict[str, Any]],
    expected: Callable[[], float | None] = lambda: None,
) -> dict[str, Any]:
    """Call ``run`` and record its results, or skip it if the manifest says that it is done.

    ``expected`` gives the stage's forecast in seconds, which is recorded beside its time.
    """
    done = finished(plan)
    if done is not None:
        print(f"{plan.stage}: nothing changed, skipped", flush=True)
        return done
    forecast, begin = expected(), time.monotonic()
    results = run()
    manifest = read_manifest(plan.out)
    manifest["version"] = __version__
    manifest["stages"][plan.stage] = {
        "key": plan.key,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begin, 1),
        "forecast_seconds": forecast and round(forecast, 1),
        "commit": commit(),
        "results": results,
    }
    storage.write_json(plan.out / MANIFEST, manifest)
    beside = f", forecast {forecast:.0f} s" if forecast else ""
    print(f"{plan.stage}: done in {time.monotonic() - begin:.0f} s{beside}", flush=True)
    return results


class Progress:
    """One line every few seconds: done, rate, time left.

    ``log``, if given, gets (stage, done, units per second, seconds left) with each line.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        log: ProgressLog | None = None,
        every_s: float = 5.0,
    ):
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.log = log
        self.done, self.skipped = 0, 0
        self.begin = self.shown = time.monotonic()

    def skip(self, count: int) -> None:
        """Count what an earlier run has done, without adding it to this run's rate."""
        self.skipped += count

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        done = self.skipped + self.done
        if now - self.shown < self.every_s and done < self.total:
            return
        self.shown = now
        rate, left = self._pace()
        print(
            f"{self.stage}: {done}/{self.total} {self.unit}, {rate:.1f} {self.unit}/s, {left:.0f} s left",
            flush=True,
        )
        self.tell()

    def tell(self, **more: float) -> None:
        """Give rate, time left and ``more`` figures to the log, without a line."""
        if self.log is not None:
            self.log(self.stage, self.skipped + self.done, *self._pace(), **more)

    def _pace(self) -> tuple[float, float]:
        """(units per second, seconds left); before a first unit the time left is unknown: infinity."""
        rate = self.done / max(time.monotonic() - self.begin, 1e-9)
        left = self.total - self.skipped - self.done
        return rate, left / rate if rate else math.inf
