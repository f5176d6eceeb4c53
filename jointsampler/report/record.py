"""What the report of a run shows: its results.json, and run.json beside it.

results.json holds measurements. run.json holds what else the report tells about
the run: its stages, its learning curve, and where it comes from. The report
stage writes run.json, so that the folder OUT/report, or a copy of it from MLflow,
is all that a page needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import storage
from ..errors import UserError
from ..evaluation.results import Results, read_results
from .curve import CurvePoint

RESULTS, RECORD = "results.json", "run.json"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StageRecord(Part):
    """A finished stage: of one that was cut off, the attempt that finished it."""

    seconds: float
    forecast_seconds: float | None = None
    finished: str | None = None  # ISO 8601
    commit: str | None = None  # of the code; None where it did not run from a checkout


class RunRecord(Part):
    name: str
    config_digest: str | None = None
    mlflow_run: str | None = None  # id
    stages: dict[str, StageRecord] = {}
    curve: list[CurvePoint] = []


@dataclass(frozen=True)
class Run:
    """One run as a page shows it."""

    results: Results
    record: RunRecord

    @property
    def name(self) -> str:
        return self.record.name


def write_record(record: RunRecord, folder: Path) -> None:
    storage.write_json(folder / RECORD, record.model_dump())


def results_file(given: Path) -> Path:
    """The results.json of a run: ``given`` itself, or in the folder ``given`` or its report.

    Raises UserError where there is none.
    """
    places = [given] if given.is_file() else [given / "report" / RESULTS, given / RESULTS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UserError(
            f"{given} holds no results: name the --out folder of 'jointsampler run' or 'jointsampler "
            "compare', or a results.json."
        )
    return found.resolve()


def read_run(results: Path) -> Run:
    """The run of a results.json; without a run.json beside it, it has its folder's name.

    Raises UserError where a file is damaged.
    """
    return Run(read_results(results), _read_record(results.parent))


def _read_record(folder: Path) -> RunRecord:
    path = folder / RECORD
    if not path.exists():
        return RunRecord(name=folder.parent.name if folder.name == "report" else folder.name)
    try:
        return RunRecord.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{path} is not a run.json of this version ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}): run 'jointsampler run report' again."
        ) from None


def distinctly_named(runs: Sequence[Run]) -> list[Run]:
    """The same runs; those that share a name get a number behind it."""
    names = [run.name for run in runs]
    seen: dict[str, int] = {}
    found = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        shared = names.count(run.name) > 1
        name = f"{run.name} ({seen[run.name]})" if shared else run.name
        found.append(replace(run, record=run.record.model_copy(update={"name": name})))
    return found
