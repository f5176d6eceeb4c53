"""Calls to one MLflow run, kept in a file while MLflow is away and sent when it is back.

``OUT/mlflow-unsent/RUN.jsonl`` holds, line by line, the run and the calls that MLflow
has not taken. The calls of a run that ended while MLflow was away are sent when
the same command starts again. Sending a call twice does no harm, except that a
model gets one more version.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import requests
from mlflow.entities import Metric, Param, RunStatus
from mlflow.tracking import MlflowClient

import jointsampler
from jointsampler import storage
from jointsampler.errors import UserError
from jointsampler.uris import redacted

UNSENT = "mlflow-unsent"
PAUSE_S = 20.0  # between attempts while MLflow is away
PARENT_TAG = "mlflow.parentRunId"  # MLflow's own tag; its UI nests runs by it
TRIAL_TAG = "jointsampler.trial"
REGISTERED_MODEL = "jointsampler"
# The packages that a served model installs. The library itself travels with the model, so that
# no package of its name is fetched from an index.
SERVING = (
    *("torch", "transformers", "accelerate", "safetensors", "pyarrow", "numpy", "pydantic"),
    *("pyyaml", "mlflow"),
)


class Outbox:
    """The calls of one run, in order.

    One process at a time writes to a run: the driver, or the controller of a
    training. Each sends first what the other could not.
    """

    def __init__(self, uri: str, out: Path, run: dict[str, Any]):
        """``run``: {"id": ...}, or {"parent", "key", "values"} of a trial whose run is made on first use."""
        self.uri, self.out, self.run = uri, out, run
        self.run_id: str | None = run.get("id")
        self.file = out / UNSENT / f"{run.get('id') or run['key']}.jsonl"
        self.next_try = 0.0

    def put(self, call: str, *args: Any) -> Any:
        """Make a call after those that wait; its result, None while MLflow is away.

        Raises MLflow's error where it answers and refuses the call. Metrics and
        statuses are kept in that case too.
        """
        calls = [*self.waiting(), [call, *args]]
        waited = len(calls) > 1
        if waited and time.monotonic() < self.next_try:
            return self.keep(calls)
        try:
            result = self.send(calls)
        except Exception as error:
            if call not in ("metrics", "status") and not is_outage(error):
                self.keep(calls[:-1])
                raise
            self.next_try = time.monotonic() + PAUSE_S
            self.keep(calls)
            if not waited:
                say(
                    f"MLflow at {self.uri} is away ({reason(error)}): calls that it did not get wait in "
                    f"{self.file} and are sent when it is back."
                )
            return None
        if waited:
            self.keep([])
            say(f"MLflow at {self.uri} is back and has the calls that waited in {self.file}.")
        return result

    def send(self, calls: list[list[Any]]) -> Any:
        """Make the calls, remove each from the list, and return the last one's result."""
        client, result = MlflowClient(self.uri), None
        if self.run_id is None:
            self.run_id = find_trial(client, **self.run)
        while calls:
            name, *args = calls[0]
            result = CALLS[name](self, client, *args)
            calls.pop(0)
        return result

    def waiting(self) -> list[list[Any]]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines()[1:]]

    def keep(self, calls: list[list[Any]]) -> None:
        """Keep ``calls`` alone; no file without any."""
        try:
            if calls:
                self.file.parent.mkdir(exist_ok=True)
                lines = [json.dumps(entry, default=str) + "\n" for entry in [self.run, *calls]]
                storage.write(self.file, "".join(lines).encode())
                return
            self.file.unlink(missing_ok=True)
        except (OSError, UserError) as error:  # a full disk ends the stages that need it, not this
            say(f"MLflow at {self.uri} misses calls that {self.file} cannot hold: {error}")
            return
        with suppress(OSError):  # the folder holds another run's calls
            self.file.parent.rmdir()


def send_waiting(uri: str, out: Path) -> list[Path]:
    """Send the waiting calls of every run of ``out``; the files of those that still wait.

    Raises UserError where MLflow answers and refuses a call.
    """
    files = sorted((out / UNSENT).glob("*.jsonl"))
    boxes = [Outbox(uri, out, json.loads(file.read_text().splitlines()[0])) for file in files]
    for box in sorted(boxes, key=lambda box: "id" in box.run):  # trials before their parent
        calls = box.waiting()
        try:
            box.send(calls)
        except Exception as error:
            if not is_outage(error):
                raise UserError(
                    f"MLflow at {uri} refuses a call that waits in {box.file}: {reason(error)}. Name the "
                    "MLflow that it is meant for with run.mlflow_uri=, or delete the file."
                ) from None
        else:
            say(f"MLflow at {uri} is back and has the calls that waited in {box.file}.")
        box.keep(calls)
    return [file for file in files if file.exists()]


def is_outage(error: BaseException | None) -> bool:
    """Whether a request did not reach a server, or got no answer in time."""
    while error is not None:
        if isinstance(error, requests.exceptions.RequestException):
            return True
        error = error.__cause__ or error.__context__
    return False


def say(text: str) -> None:
    """Print a line to stderr; URIs in it lose what may be secret."""
    print(redacted(text), file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """The innermost of the messages that an HTTP client wraps in each other; else the first line's end."""
    line = (str(error) or type(error).__name__).splitlines()[0].rstrip("\"'). ")
    return re.split("['\"]|: " if "Caused by" in line else ": ", line)[-1]


def quiet_mlflow(reporting: bool = False) -> None:
    """Turn off MLflow's usage data and shorten its retries, which last minutes by default.

    ``reporting``: in the controller of a training, which must not be held up.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0" if reporting else "1")
    if reporting:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def find_trial(client: MlflowClient, parent: str, key: str, values: dict[str, Any]) -> str:
    """The run of a trial under the run ``parent``: found by its key, or created."""
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`{PARENT_TAG}` = '{parent}' and tags.`{TRIAL_TAG}` = '{key}'"
    )
    if found:
        return found[0].info.run_id
    name = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in values.items())
    tags = {PARENT_TAG: parent, TRIAL_TAG: key}
    run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in values.items()])
    return run_id


def _metrics(box: Outbox, client: MlflowClient, points: list[list[Any]]) -> None:
    client.log_batch(box.run_id, metrics=[Metric(*point) for point in points])


def _folder(box: Outbox, client: MlflowClient, folder: str, artifact_path: str) -> None:
    client.log_artifacts(box.run_id, folder, artifact_path)


def _model(
    box: Outbox, client: MlflowClient, folder: str, teacher: dict[str, Any], aliases: list[str]
) -> str:
    """Log a sampler as a pyfunc model that generates, register it, return its version."""
    mlflow.set_tracking_uri(box.uri)
    with mlflow.start_run(run_id=box.run_id):
        info = mlflow.pyfunc.log_model(
            name="sampler",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"sampler": folder},
            model_config={"teacher": teacher},
            code_paths=[str(Path(jointsampler.__file__).parent)],
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVING],
            registered_model_name=REGISTERED_MODEL,
        )
    made = str(info.registered_model_version)
    for alias in aliases:
        client.set_registered_model_alias(REGISTERED_MODEL, alias, made)
    return made


def _status(box: Outbox, client: MlflowClient, status: str) -> None:
    if status == RunStatus.to_string(RunStatus.RUNNING):
        client.update_run(box.run_id, status=status)
    else:
        client.set_terminated(box.run_id, status)


def _close_trials(box: Outbox, client: MlflowClient, failed: list[str]) -> None:
    experiment = client.get_run(box.run_id).info.experiment_id
    children = f"tags.`{PARENT_TAG}` = '{box.run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], children):
        status = "FAILED" if run.data.tags.get(TRIAL_TAG) in failed else "KILLED"
        client.set_terminated(run.info.run_id, status)


CALLS: dict[str, Callable[..., Any]] = {
    "metrics": _metrics,
    "folder": _folder,
    "model": _model,
    "status": _status,
    "close_trials": _close_trials,
}
