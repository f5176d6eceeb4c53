"""The single MLflow writer: one run per out folder, written from the driver's node.

Workers never talk to MLflow; Ray Train's reports come through
:class:`TrainReporter`, which runs in the controller. Precedence of the tracking
URI: run.mlflow_uri, $MLFLOW_TRACKING_URI, OUT/mlflow.db.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunStatus
from mlflow.tracking import MlflowClient
from ray.train import UserCallback

from jointsampler.config import Config
from jointsampler.errors import UserError

REGISTERED_MODEL = "jointsampler"
NEWEST, BEST = "newest", "best"  # aliases: the last one registered; the last that won a sweep
_OUT_TAG, _TRIAL_TAG = "jointsampler.out", "jointsampler.trial"
_PARENT_TAG = "mlflow.parentRunId"  # MLflow's own: its UI nests by it


class TrainReporter(UserCallback):
    """Prints and logs what training workers report; runs in Ray Train's controller."""

    def __init__(self, uri: str, run_id: str, steps: int, name: str = "train"):
        self.uri, self.run_id, self.steps, self.name = uri, run_id, steps, name

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        report = metrics[0]
        shown = {k: report[k] for k in report if k == "loss" or k.startswith("captured")}
        if "loss" in report:
            values = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
            print(
                f"{self.name}: step {report['step']}/{self.steps}, {values}, "
                f"{report['states_per_second']:.0f} states/s, {report['seconds_left']:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
        now = int(time.time() * 1000)
        points = [
            Metric(f"train/{key}", float(value), now, report["step"])
            for key, value in report.items()
            if key not in ("step", "seconds_left")
        ]
        try:
            MlflowClient(self.uri).log_batch(self.run_id, metrics=points)
        except Exception as error:  # a lost metric must not cost a training
            print(
                f"{self.name}: MLflow did not take step {report['step']}: {error}",
                file=sys.stderr,
                flush=True,
            )


class Tracker:
    """What the stages may write to one run."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str, config: Config):
        self.client, self.uri, self.run_id, self.config = client, uri, run_id, config

    def train_reporter(self) -> TrainReporter:
        return TrainReporter(self.uri, self.run_id, self.config.train.steps)

    def log_results(self, values: dict[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, step) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=points)

    def log_folder(self, folder: Path, artifact_path: str) -> None:
        self.client.log_artifacts(self.run_id, str(folder), artifact_path)

    def register_sampler(self, folder: Path, aliases: Sequence[str]) -> str:
        """Log the sampler as a pyfunc model that generates, register it, return its version."""
        mlflow.set_tracking_uri(self.uri)
        with mlflow.start_run(run_id=self.run_id):
            info = mlflow.pyfunc.log_model(
                name="sampler",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"sampler": str(folder)},
                model_config={"teacher": self.config.teacher.model_dump()},
                pip_requirements=["jointsampler"],
                registered_model_name=REGISTERED_MODEL,
            )
        version = str(info.registered_model_version)
        for alias in aliases:
            self.client.set_registered_model_alias(REGISTERED_MODEL, alias, version)
        return version


@contextmanager
def child_run(uri: str, parent: str, key: str, values: dict[str, Any]) -> Iterator[str]:
    """The run of one trial under ``parent``: found again by its key, or made; ends with the body."""
    quiet_mlflow()
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`{_PARENT_TAG}` = '{parent}' and tags.`{_TRIAL_TAG}` = '{key}'"
    )
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        name = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in values.items())
        tags = {_PARENT_TAG: parent, _TRIAL_TAG: key}
        run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        client.log_batch(run_id, params=[Param(k, str(v)) for k, v in values.items()])
    try:
        yield run_id
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def close_orphans(tracker: Tracker) -> None:
    """Trials that nobody ended (killed, or stopped early) are ended; those that go on open theirs again."""
    experiment = tracker.client.get_run(tracker.run_id).info.experiment_id
    children = f"tags.`{_PARENT_TAG}` = '{tracker.run_id}' and attributes.status = 'RUNNING'"
    for run in tracker.client.search_runs([experiment], children):
        tracker.client.set_terminated(run.info.run_id, "KILLED")


def quiet_mlflow() -> None:
    """Without these MLflow sends usage data, and retries a dead server for minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")


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
    tracking server or database cannot be used.
    """
    quiet_mlflow()
    uri = tracking_uri(config, out)
    client = MlflowClient(uri)
    name = config.run.experiment
    try:
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
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Cannot use MLflow at {uri}: {reason}. Start the server, or name another place with run.mlflow_uri=."
        ) from None
    try:
        yield Tracker(client, uri, run_id, config)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")
