"""The MLflow run of an out folder: parameters, curves, results, the registered sampler.

Drivers alone write to MLflow: the run's, and in a sweep those of its trials, which may
be on other nodes. Training workers report to Ray Train, and :class:`TrainReporter`
passes their reports on from its controller. No training fails because MLflow is away,
and nothing is lost (``outbox.py``). The tracking URI is run.mlflow_uri, else
$MLFLOW_TRACKING_URI, else OUT/mlflow.db.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from ray.train import UserCallback

from jointsampler import storage
from jointsampler.config import Config
from jointsampler.errors import UserError, refuse_secrets
from jointsampler.report.curve import append_report
from jointsampler.uris import shown, shown_all
from workflows.outbox import REGISTERED_MODEL as REGISTERED_MODEL
from workflows.outbox import Outbox, quiet_mlflow, reason, say, send_waiting
from workflows.source import commit
from workflows.stage import digest

NEWEST, BEST = "newest", "best"  # model aliases: registered last; registered last after a sweep
RUN_FILE = "mlflow-run.json"  # in OUT: MLflow's URI -> the id of the run
CONFIG_TAG = "jointsampler.config"  # a digest of all settings of the last start


class TrainReporter(UserCallback):
    """Prints and logs the reports of training workers; runs in Ray Train's controller.

    ``curve``: the file that keeps the learning curve for the report page.
    """

    def __init__(self, outbox: Outbox, steps: int, curve: Path, name: str = "train"):
        self.outbox, self.steps, self.curve, self.name = outbox, steps, curve, name

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        report = metrics[0]  # of rank 0
        if "loss" in report:
            shown = [key for key in report if key == "loss" or key.startswith("captured")]
            values = ", ".join(f"{key} {report[key]:.4f}" for key in shown)
            say(
                f"{self.name}: step {report['step']}/{self.steps}, {values}, "
                f"{report['states_per_second']:.0f} states/s, {report['seconds_left']:.0f} s left"
            )
        values = {f"train/{key}": value for key, value in report.items() if key != "step"}
        quiet_mlflow(reporting=True)
        try:
            append_report(self.curve, report)
        except OSError as error:
            say(f"{self.name}: {self.curve} misses step {report['step']}: {error.strerror}")
        try:
            self.outbox.put("metrics", points_of(values, report["step"]))
        except Exception as error:  # no failure here may end a training
            say(f"{self.name}: the metrics of step {report['step']} are not logged: {error}")


class Tracker:
    """Writes to one run on behalf of the stages; keeps the calls while MLflow is away."""

    def __init__(self, outbox: Outbox, config: Config):
        self.outbox, self.config = outbox, config
        self.uri = outbox.uri

    def train_reporter(self, curve: Path) -> TrainReporter:
        return TrainReporter(self.outbox, self.config.train.steps, curve)

    def log_results(self, values: dict[str, float], step: int = 0) -> None:
        self.outbox.put("metrics", points_of(values, step))

    def log_progress(
        self, stage: str, done: int, rate: float, seconds_left: float, **more: float
    ) -> None:
        """Of a stage other than the training, whose workers report for themselves."""
        values = {"per_second": rate, **more}
        if math.isfinite(seconds_left):  # unknown before a first unit
            values["seconds_left"] = seconds_left
        self.log_results({f"{stage}/{key}": value for key, value in values.items()}, done)

    def log_folder(self, folder: Path, artifact_path: str) -> None:
        self.outbox.put("folder", str(folder), artifact_path)

    def register_sampler(self, folder: Path, aliases: Sequence[str]) -> str | None:
        """The version that it is registered as, None where MLflow is away."""
        teacher = self.config.teacher.model_dump()
        return self.outbox.put("model", str(folder), teacher, list(aliases))

    def close_trials(self, failed: Sequence[str] = ()) -> None:
        """End the open runs of all trials: FAILED those with a key in ``failed``, KILLED the others.

        A trial that goes on later reopens its run.
        """
        send_waiting(self.uri, self.outbox.out)  # the trials' own calls come first
        self.outbox.put("close_trials", list(failed))


def points_of(values: dict[str, float], step: int) -> list[list[Any]]:
    """The arguments of MLflow's Metric: key, value, time, step."""
    now = int(time.time() * 1000)
    return [[key, float(value), now, step] for key, value in values.items()]


def tracking_uri(config: Config, out: Path) -> str:
    named = config.run.mlflow_uri  # checked where the configuration was loaded
    if named is None and (named := os.environ.get("MLFLOW_TRACKING_URI")):
        refuse_secrets({"MLFLOW_TRACKING_URI": named})
    return named or f"sqlite:///{out / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """How to look at the runs: a server's address, or the command that shows a database."""
    return shown(uri) if uri.startswith("http") else f"mlflow ui --backend-store-uri {shown(uri)}"


@contextmanager
def open_run(config: Config, out: Path) -> Iterator[Tracker]:
    """The MLflow run of ``out``: found by the id kept there, or created.

    Ends FINISHED, or FAILED if the body raises. Raises UserError where the
    tracking server or database cannot be used; later it may come and go.
    """
    quiet_mlflow()
    uri = tracking_uri(config, out)
    send_waiting(uri, out)
    try:
        run_id = find_run(MlflowClient(uri), config, out)
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
        say(
            f"MLflow at {shown(uri)} has not got everything of this run: the rest waits in {waiting[0].parent}, "
            "and the same command, started again once MLflow is back, sends it."
        )


@contextmanager
def child_run(
    uri: str, out: Path, parent: str, key: str, values: dict[str, Any]
) -> Iterator[Outbox]:
    """The run of one trial under the run ``parent``.

    It ends with the body. If the body raises, the driver ends it (``close_trials``),
    because a trial cannot tell an error of its own from being stopped.
    """
    quiet_mlflow()
    outbox = Outbox(uri, out, {"parent": parent, "key": key, "values": values})
    outbox.put("status", "RUNNING")
    yield outbox
    outbox.put("status", "FINISHED")


def find_run(client: MlflowClient, config: Config, out: Path) -> str:
    """The id of the one run of ``out`` in this MLflow, which is RUNNING from now on."""
    name = config.run.experiment
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A local database would put artifacts under the current directory.
        local = client.tracking_uri.startswith("sqlite")
        where = (out / "mlartifacts").as_uri() if local else None
        experiment_id = client.create_experiment(name, artifact_location=where)
    else:
        experiment_id = experiment.experiment_id
    params = parameters(config)
    run = kept_run(client, out)
    if run is None:
        run_id = client.create_run(experiment_id, run_name=out.name).info.run_id
        client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
        keep_run(client, out, run_id)
    else:
        run_id, first = run.info.run_id, run.data.params
        client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        # MLflow keeps a parameter as it was first. What it is since then is a tag.
        tags = {f"now.{key}": value for key, value in params.items() if first.get(key) != value}
        tags |= {f"now.{key}": params[key] for key in params if f"now.{key}" in run.data.tags}
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    tags = {"jointsampler.out": str(out), CONFIG_TAG: config_digest(config)}
    if (head := commit()) is not None:
        tags["mlflow.source.git.commit"] = head
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return run_id


def kept_run(client: MlflowClient, out: Path) -> Run | None:
    """The run that OUT names for this MLflow; None if it names none, or the run was deleted."""
    place = out / RUN_FILE
    run_id = (
        json.loads(place.read_text()).get(shown(client.tracking_uri)) if place.exists() else None
    )
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def keep_run(client: MlflowClient, out: Path, run_id: str) -> None:
    """Name the run in OUT: a path may be two teams' own, a folder is one."""
    place = out / RUN_FILE
    kept = json.loads(place.read_text()) if place.exists() else {}
    storage.write_json(place, kept | {shown(client.tracking_uri): run_id})


def parameters(config: Config) -> dict[str, str]:
    """All settings as MLflow takes them, without secrets."""
    return {key: value[:6000] for key, value in flat(shown_all(config.model_dump())).items()}


def config_digest(config: Config) -> str:
    return digest(parameters(config))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as dotted keys with values as text."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = str(value)
    return found
