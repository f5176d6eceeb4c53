"""The single MLflow writer: one run per out folder, written from the driver's node.

Workers never talk to MLflow; Ray Train's reports come through
:class:`TrainReporter`, which runs in the controller. What a server that is away
does not take waits in OUT/mlflow-unsent and goes first when it is back, at the
latest when the same command is started again. Precedence of the tracking URI:
run.mlflow_uri, $MLFLOW_TRACKING_URI, OUT/mlflow.db.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunStatus
from mlflow.tracking import MlflowClient
from ray.train import UserCallback

from jointsampler.config.schema import Config
from jointsampler.errors import UserError

REGISTERED_MODEL = "jointsampler"
NEWEST, BEST = "newest", "best"  # aliases: the last one registered; the last that won a sweep
UNSENT = "mlflow-unsent"  # in OUT: a file per run with the calls that MLflow has not got, in order
PAUSE_S = 20.0  # between attempts while MLflow is away
_OUT_TAG, _TRIAL_TAG = "jointsampler.out", "jointsampler.trial"
_PARENT_TAG = "mlflow.parentRunId"  # MLflow's own: its UI nests by it
_BATCH = 1000  # metrics that MLflow takes at once


class Outbox:
    """Calls on their way to one run; what MLflow does not take waits in a file, in order.

    One process at a time writes to a run: the controller of its training, or the
    driver. Each finds what the other had to leave. Sent twice, a call does no harm (a model gets one more version).
    """

    def __init__(self, uri: str, out: Path, run: dict[str, Any]):
        """``run`` is {"id": ...}, or of a trial what :func:`find_child` takes, found or made when first sent to."""
        self.uri, self.out, self.run = uri, out, run
        self.run_id: str | None = run.get("id")
        self.file = out / UNSENT / f"{run.get('id') or run['key']}.jsonl"
        self.next_try = 0.0

    def put(self, call: str, *args: Any) -> Any:
        """Make a call after those that wait; None where it has to wait itself.

        A metric or status always waits. What else fails although MLflow answers
        is no outage, and raises.
        """
        lines = self.waiting()
        if lines and call == lines[-1][0] == "metrics" and len(lines[-1][1] + args[0]) <= _BATCH:
            lines[-1][1] += args[0]
        else:
            lines.append([call, *args])
        if self.file.exists() and time.monotonic() < self.next_try:
            self.keep(lines)
            return None
        return self.send(lines, patient=call in ("metrics", "status"))

    def send(self, lines: list[list[Any]], patient: bool, again: bool = True) -> Any:
        """What the last of the calls returned; None where MLflow does not take them and they are kept."""
        result, waited = None, self.file.exists()
        try:
            client = MlflowClient(self.uri)
            if self.run_id is None:
                self.run_id = find_child(client, **self.run)
            while lines:
                result = CALLS[lines[0][0]](self, client, *lines[0][1:])
                lines = lines[1:]
        except Exception as error:
            if not patient and answers(self.uri):
                if not again:
                    raise
                return self.send(lines, patient, again=False)  # it was away for a moment
            self.next_try = time.monotonic() + PAUSE_S
            if self.keep(lines) and not waited:
                tell(
                    f"MLflow at {self.uri} is away ({reason(error)}): what it has not got waits in "
                    f"{self.file} and is sent when it is back."
                )
            return None
        if waited:
            self.file.unlink()
            tell(f"MLflow at {self.uri} is back and has what waited in {self.file}.")
            with suppress(OSError):  # another run's calls wait there
                self.file.parent.rmdir()
        return result

    def waiting(self) -> list[list[Any]]:
        if not self.file.exists():
            return []
        return [json.loads(line) for line in self.file.read_text().splitlines()[1:]]

    def keep(self, lines: list[list[Any]]) -> bool:
        try:
            self.file.parent.mkdir(exist_ok=True)
            partial = self.file.with_suffix(".partial")
            text = [json.dumps(line, default=str) + "\n" for line in [self.run, *lines]]
            partial.write_text("".join(text))
            partial.replace(self.file)
        except OSError as error:  # no disk, no MLflow: what fails for it says so itself
            tell(f"MLflow at {self.uri} lacks what {self.file} cannot hold: {error.strerror}.")
            return False
        return True


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """The innermost of the messages that an HTTP client wraps in each other; else the first line's end."""
    line = (str(error) or type(error).__name__).splitlines()[0].rstrip("\"'). ")
    return re.split("['\"]|: " if "Caused by" in line else ": ", line)[-1]


def answers(uri: str) -> bool:
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except Exception:
        return False
    return True


def send_waiting(uri: str, out: Path) -> list[Path]:
    """Send what waits of every run of ``out``, and return the files of what still waits.

    Raises UserError where MLflow answers and does not take it.
    """
    files = sorted((out / UNSENT).glob("*.jsonl"))
    boxes = [Outbox(uri, out, json.loads(file.read_text().splitlines()[0])) for file in files]
    for box in sorted(boxes, key=lambda box: "id" in box.run):  # trials before their parent
        try:
            box.send(box.waiting(), patient=False)
        except Exception as error:
            raise UserError(
                f"MLflow at {uri} does not take what waits in {box.file}: {reason(error)}. Name the MLflow "
                "that it is meant for with run.mlflow_uri=, or delete the file."
            ) from None
    return [file for file in files if file.exists()]


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
            pip_requirements=["jointsampler"],
            registered_model_name=REGISTERED_MODEL,
        )
    version = str(info.registered_model_version)
    for alias in aliases:
        client.set_registered_model_alias(REGISTERED_MODEL, alias, version)
    return version


def _status(box: Outbox, client: MlflowClient, status: str) -> None:
    if status == RunStatus.to_string(RunStatus.RUNNING):
        client.update_run(box.run_id, status=status)
    else:
        client.set_terminated(box.run_id, status)


def _close_orphans(box: Outbox, client: MlflowClient) -> None:
    experiment = client.get_run(box.run_id).info.experiment_id
    children = f"tags.`{_PARENT_TAG}` = '{box.run_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], children):
        client.set_terminated(run.info.run_id, "KILLED")


CALLS: dict[str, Callable[..., Any]] = {
    "metrics": _metrics,
    "folder": _folder,
    "model": _model,
    "status": _status,
    "close_orphans": _close_orphans,
}


def points_of(values: dict[str, float], step: int) -> list[list[Any]]:
    """What MLflow's Metric takes: key, value, time, step."""
    now = int(time.time() * 1000)
    return [[key, float(value), now, step] for key, value in values.items()]


class TrainReporter(UserCallback):
    """Prints and logs what training workers report; runs in Ray Train's controller."""

    def __init__(self, outbox: Outbox, steps: int, name: str = "train"):
        self.outbox, self.steps, self.name = outbox, steps, name

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        report = metrics[0]
        shown = {k: report[k] for k in report if k == "loss" or k.startswith("captured")}
        if "loss" in report:
            values = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
            tell(
                f"{self.name}: step {report['step']}/{self.steps}, {values}, "
                f"{report['states_per_second']:.0f} states/s, {report['seconds_left']:.0f} s left"
            )
        quiet_mlflow(reporting=True)
        values = {
            f"train/{key}": value
            for key, value in report.items()
            if key not in ("step", "seconds_left")
        }
        try:
            self.outbox.put("metrics", points_of(values, report["step"]))
        except Exception as error:  # a lost metric must not cost a training
            tell(f"{self.name}: step {report['step']} is lost to MLflow: {error}")


class Tracker:
    """What the stages may write to one run; none of it fails because MLflow is away."""

    def __init__(self, outbox: Outbox, config: Config):
        self.outbox, self.config = outbox, config
        self.uri = outbox.uri

    def train_reporter(self) -> TrainReporter:
        return TrainReporter(self.outbox, self.config.train.steps)

    def log_results(self, values: dict[str, float], step: int = 0) -> None:
        self.outbox.put("metrics", points_of(values, step))

    def log_folder(self, folder: Path, artifact_path: str) -> None:
        self.outbox.put("folder", str(folder), artifact_path)

    def register_sampler(self, folder: Path, aliases: Sequence[str]) -> str | None:
        """The version that it is registered as, None where MLflow is away."""
        teacher = self.config.teacher.model_dump()
        return self.outbox.put("model", str(folder), teacher, list(aliases))

    def close_orphans(self) -> None:
        """Trials that nobody ended (killed, or stopped early) are ended; those that go on open theirs again."""
        send_waiting(self.uri, self.outbox.out)  # the trials' own calls come first
        self.outbox.put("close_orphans")


def find_child(client: MlflowClient, parent: str, key: str, values: dict[str, Any]) -> str:
    """The run of one trial under ``parent``: found again by its key, or made."""
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`{_PARENT_TAG}` = '{parent}' and tags.`{_TRIAL_TAG}` = '{key}'"
    )
    if found:
        return found[0].info.run_id
    name = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in values.items())
    tags = {_PARENT_TAG: parent, _TRIAL_TAG: key}
    run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in values.items()])
    return run_id


@contextmanager
def child_run(
    uri: str, out: Path, parent: str, key: str, values: dict[str, Any]
) -> Iterator[Outbox]:
    """The way to the run of one trial under ``parent``, which ends with the body."""
    quiet_mlflow()
    outbox = Outbox(uri, out, {"parent": parent, "key": key, "values": values})
    outbox.put("status", "RUNNING")
    try:
        yield outbox
    except BaseException:
        outbox.put("status", "FAILED")
        raise
    outbox.put("status", "FINISHED")


def quiet_mlflow(reporting: bool = False) -> None:
    """Without these MLflow sends usage data, and asks a dead server for minutes.

    ``reporting``: in the controller of a training, where nothing may take long.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0" if reporting else "1")
    if reporting:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def tracking_uri(config: Config, out: Path) -> str:
    named = config.run.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return named or f"sqlite:///{out / 'mlflow.db'}"


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat


@contextmanager
def open_run(config: Config, out: Path) -> Iterator[Tracker]:
    """The MLflow run of ``out``: found again by its tag, or made.

    Ends FINISHED, or FAILED if the body raises. Raises UserError where the
    tracking server or database cannot be used; once open, it may come and go.
    """
    quiet_mlflow()
    uri = tracking_uri(config, out)
    send_waiting(uri, out)
    name = config.run.experiment
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            # A local database would put artifacts under the current directory.
            where = (out / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
            experiment_id = client.create_experiment(name, artifact_location=where)
        else:
            experiment_id = experiment.experiment_id
        found = client.search_runs([experiment_id], f"tags.`{_OUT_TAG}` = '{out}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        else:
            run_id = client.create_run(
                experiment_id, run_name=out.name, tags={_OUT_TAG: str(out)}
            ).info.run_id
            params = flatten(config.model_dump(exclude={"pretrain"}))
            client.log_batch(run_id, params=[Param(k, v[:6000]) for k, v in params.items()])
    except Exception as error:
        raise UserError(
            f"Cannot use MLflow at {uri}: {reason(error)}. Start the server, or name another place with run.mlflow_uri=."
        ) from None
    outbox = Outbox(uri, out, {"id": run_id})
    try:
        yield Tracker(outbox, config)
    except BaseException:
        outbox.put("status", "FAILED")
        raise
    outbox.put("status", "FINISHED")
    if waiting := send_waiting(uri, out):
        tell(
            f"MLflow at {uri} has not got everything of this run: the rest waits in {waiting[0].parent}, "
            "and the same command, started again once MLflow is back, sends it."
        )
