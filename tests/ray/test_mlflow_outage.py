"""An MLflow server that is killed while a training reports costs no training and, in the end, no metric."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jointsampler import JointSampler
from jointsampler.config import load_config
from tests.ray.jobs import finish, start
from tests.ray.nodes import PATIENCE, Head, end, free_port, wait_until
from workflows.tracking import TrainReporter, child_run, open_run

pytestmark = pytest.mark.slow

# A training that outlives a server's start, however slow the machine: the short ones end before it.
LONG = ["train.report_every=50", "train.validate_every=1500", "train.save_every=500"]
AWAY, BACK = "is away (", "is back and has the calls that waited"


class Server:
    """A tracking server on one port and one database, which it finds again when it is started again."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                    *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
                    *("--artifacts-destination", self.folder / "artifacts"),
                ],
                # Without its own job queues, eight processes that nobody asked for.
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until(self.answers, 120, "the MLflow server answers")

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
            return True
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    end(server.process)


def reported(log: str) -> list[int]:
    return [int(step) for step in re.findall(r"train: step (\d+)/", log)]


def crashed(log: str) -> bool:
    """Whether the driver's own output, or the controller's, holds a traceback: Ray's helpers have theirs."""
    traces = [line for line in log.splitlines() if "Traceback (most recent" in line]
    return any(line.startswith("Traceback") or "TrainController" in line for line in traces)


def kill_after_a_report(server: Server, driver: subprocess.Popen, log: Path) -> None:
    def told() -> bool:
        assert driver.poll() is None, log.read_text()[-6000:]
        return bool(reported(log.read_text()))

    wait_until(told, 240, "a report")
    server.kill()


def logged(server: Server, out: Path):
    """(the one run of ``out``, the steps of its losses), as MLflow has them."""
    client = MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("jointsampler").experiment_id])
    assert run.info.run_name == out.name
    return run, [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]


def test_a_server_that_comes_back_gets_every_metric_of_every_step(
    head: Head, server: Server, tmp_path: Path
):
    out, uri = tmp_path / "out", f"run.mlflow_uri={server.uri}"
    finish(start(head, "corpus", out, "corpus.actors=1"), out, "corpus")
    log = out / "train.log"
    driver = start(head, "train", out, *LONG, "train.steps=3000", "train.workers=1", uri)
    kill_after_a_report(server, driver, log)
    wait_until(lambda: AWAY in log.read_text(), 60, "the outage is told")
    server.start()
    assert driver.poll() is None, (
        "the training ended before the server was back: give it more steps"
    )
    told = finish(driver, out, "train")
    assert told.count(AWAY) == 1 and told.count(BACK) == 1
    assert not crashed(told) and "has not got everything" not in told
    run, steps = logged(server, out)
    assert steps == reported(told) == list(range(50, 3001, 50))
    assert run.info.status == "FINISHED"
    assert "train/captured_k4" in run.data.metrics
    assert not (out / "mlflow-unsent").exists()


def test_a_server_that_stays_away_costs_nothing_and_gets_the_rest_from_the_same_command(
    head: Head, server: Server, judge_folder: Path, tmp_path: Path
):
    out = tmp_path / "out"
    short = ["train.steps=400", f"evaluate.judge={judge_folder}"]
    short += ["corpus.actors=1", "train.workers=1", "evaluate.actors=1"]
    command = (head, "pipeline", out, *LONG, *short, f"run.mlflow_uri={server.uri}")
    driver = start(*command)
    kill_after_a_report(server, driver, out / "pipeline.log")
    told = finish(driver, out, "pipeline")
    JointSampler.from_pretrained(out / "sampler")
    assert (out / "report" / "index.html").is_file()
    assert not crashed(told) and told.count(AWAY) == 1
    assert "the same command, started again once MLflow is back, sends it" in told
    waits = len(list((out / "mlflow-unsent").glob("*.jsonl")))
    assert waits == 1

    refused = start(*command)
    assert refused.wait(120 * PATIENCE) == 2  # nothing left to do, and nobody to tell

    server.start()
    again = finish(start(*command), out, "pipeline")[len(told) :]
    assert again.count("nothing changed, skipped") == 4 and BACK in again
    run, steps = logged(server, out)
    assert steps == reported(told) == list(range(50, 401, 50))
    assert run.info.status == "FINISHED" and "joint_k4/captured" in run.data.metrics
    client = MlflowClient(server.uri)
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["report"]
    assert client.get_model_version_by_alias("jointsampler", "newest").run_id == run.info.run_id
    assert not (out / "mlflow-unsent").exists()


def test_a_trial_that_comes_and_goes_while_the_server_is_away_is_there_afterwards(
    server: Server, tmp_path: Path, capfd, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = load_config(None, [f"run.mlflow_uri={server.uri}"])
    with open_run(config, tmp_path) as tracker:
        parent = tracker.outbox.run_id
        server.kill()
        with child_run(server.uri, tmp_path, parent, "a", {"train.lr": 0.1}) as outbox:
            reporter = TrainReporter(outbox, 20, tmp_path / "curve.jsonl")
            for step in (10, 20):
                rates = {"states_per_second": 1.0, "seconds_left": 1.0}
                reporter.after_report(None, [{"step": step, "loss": 1.0, **rates}], None)
    told = capfd.readouterr().err
    assert told.count(AWAY) == 2  # once for each of the two runs
    assert told.count("has not got everything of this run") == 1
    server.start()
    with open_run(config, tmp_path):
        pass
    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name("jointsampler").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (trial,) = [run for run in runs if run.info.run_id != parent]
    assert trial.data.params == {"train.lr": "0.1"}
    losses = client.get_metric_history(trial.info.run_id, "train/loss")
    assert [metric.step for metric in losses] == [10, 20]


def test_a_server_that_hangs_holds_a_report_up_for_seconds_only(
    server: Server, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # as reporters have it
    config = load_config(None, [f"run.mlflow_uri={server.uri}"])
    with open_run(config, tmp_path) as tracker:
        os.killpg(server.process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        for step in range(1, 101):
            tracker.log_results({"x": step}, step)
        assert time.monotonic() - begin < 10  # one attempt, then a pause
        os.killpg(server.process.pid, signal.SIGCONT)
    client = MlflowClient(server.uri)
    history = client.get_metric_history(tracker.outbox.run_id, "x")
    assert [metric.step for metric in history] == list(range(1, 101))
