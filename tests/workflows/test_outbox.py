"""Calls to an MLflow that is away are kept in order, and all arrive when it is back."""

from __future__ import annotations

import json
import subprocess

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from jointsampler import UserError
from jointsampler.config import load_config
from workflows.outbox import UNSENT, Outbox, send_waiting
from workflows.stage import Progress
from workflows.tracking import (
    CONFIG_TAG,
    TrainReporter,
    child_run,
    find_run,
    open_run,
    points_of,
    ui_command,
)

AWAY = "http://127.0.0.1:9"  # a port that no server listens on


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def database(tmp_path):
    """(URI, the id of a run in it)"""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return uri, find_run(MlflowClient(uri), load_config(), tmp_path)


def steps(uri: str, run: str, key: str) -> list[int]:
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run, key)]


def test_metrics_of_an_outage_arrive_in_order_when_the_server_is_back(database, tmp_path, capfd):
    uri, run = database
    for step in range(3):
        Outbox(AWAY, tmp_path, {"id": run}).put("metrics", points_of({"x": 1.0}, step))
    assert capfd.readouterr().err.count("is away (") == 1
    back = Outbox(uri, tmp_path, {"id": run})
    back.put("metrics", points_of({"x": 1.0}, 3))
    assert steps(uri, run, "x") == [0, 1, 2, 3]
    assert "is back and has the calls that waited" in capfd.readouterr().err
    assert not (tmp_path / UNSENT).exists()


def test_what_a_finished_process_left_is_sent_by_the_next(database, tmp_path):
    uri, run = database
    box = Outbox(AWAY, tmp_path, {"id": run})
    box.put("metrics", points_of({"x": 1.0}, 5))
    box.put("status", "FINISHED")
    assert send_waiting(AWAY, tmp_path) == [box.file]
    assert send_waiting(uri, tmp_path) == []
    assert steps(uri, run, "x") == [5]
    assert MlflowClient(uri).get_run(run).info.status == "FINISHED"


def test_an_outage_is_one_attempt_and_then_a_pause(database, tmp_path, monkeypatch):
    attempts = []
    monkeypatch.setattr(Outbox, "send", lambda self, calls: attempts.append(1) or 1 / 0)
    box = Outbox(AWAY, tmp_path, {"id": database[1]})
    for step in range(50):
        box.put("metrics", points_of({"x": 1.0}, step))
    assert len(attempts) == 1
    assert len(box.file.read_text().splitlines()) == 51  # the run, and every call


def test_a_trial_that_ran_during_an_outage_has_its_run_afterwards(database, tmp_path):
    uri, parent = database
    with child_run(AWAY, tmp_path, parent, "key", {"train.lr": 0.1}) as box:
        report = {"step": 4, "loss": 1.0, "states_per_second": 1.0, "seconds_left": 1.0}
        TrainReporter(box, 8, tmp_path / "curve.jsonl").after_report(None, [report], None)
    assert send_waiting(uri, tmp_path) == []
    client = MlflowClient(uri)
    (trial,) = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert trial.info.status == "FINISHED" and trial.data.params == {"train.lr": "0.1"}
    assert steps(uri, trial.info.run_id, "train/loss") == [4]


def test_trials_that_raise_are_ended_by_the_driver_as_failed_or_killed(tmp_path):
    with open_run(load_config(), tmp_path) as tracker:
        parent = tracker.outbox.run_id
        for key in ("broken", "stopped"):
            with (
                pytest.raises(ZeroDivisionError),
                child_run(tracker.uri, tmp_path, parent, key, {"train.seed": 1}),
            ):
                raise ZeroDivisionError
        with child_run(tracker.uri, tmp_path, parent, "whole", {"train.seed": 1}):
            pass
        tracker.close_trials(failed=["broken"])
    client = MlflowClient(tracker.uri)
    experiment = client.get_run(parent).info.experiment_id
    trials = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert {run.data.tags["jointsampler.trial"]: run.info.status for run in trials} == {
        "broken": "FAILED", "stopped": "KILLED", "whole": "FINISHED",
    }  # fmt: skip


def test_a_call_that_mlflow_refuses_is_an_error_and_not_kept(database, tmp_path):
    uri, _ = database
    box = Outbox(uri, tmp_path, {"id": "0" * 32})
    with pytest.raises(MlflowException, match="not found"):
        box.put("folder", str(tmp_path), "report")
    assert send_waiting(uri, tmp_path) == []


def test_waiting_calls_for_another_mlflow_are_named(database, tmp_path):
    uri, _ = database
    Outbox(AWAY, tmp_path, {"id": "0" * 32}).put("metrics", points_of({"x": 1.0}, 1))
    with pytest.raises(UserError, match=r"refuses a call that waits in .*, or delete the file"):
        send_waiting(uri, tmp_path)


def test_a_full_disk_ends_no_training(database, tmp_path, capfd):
    _, run = database
    (tmp_path / UNSENT).write_text("a file where the folder should be")
    Outbox(AWAY, tmp_path, {"id": run}).put("metrics", points_of({"x": 1.0}, 1))
    assert "cannot hold" in capfd.readouterr().err


def test_a_run_is_found_again_and_ends_as_its_body_does(tmp_path):
    config = load_config(None, ["train.steps=5"])
    with open_run(config, tmp_path) as tracker:
        run = tracker.outbox.run_id
    with pytest.raises(ZeroDivisionError), open_run(config, tmp_path) as tracker:
        assert tracker.outbox.run_id == run
        tracker.log_results({"x": 2.0})
        raise ZeroDivisionError
    found = MlflowClient(tracker.uri).get_run(run)
    assert found.info.status == "FAILED" and found.data.params["train.steps"] == "5"
    assert json.loads(found.data.params["evaluate.ks"]) == [1, 2, 4, 8]


def test_a_server_is_looked_at_by_its_address_and_a_database_by_a_command():
    assert ui_command("http://host:5000") == "http://host:5000"
    assert ui_command("sqlite:////x/mlflow.db").startswith("mlflow ui --backend-store-uri sqlite")


def test_two_teams_with_one_path_have_two_runs_and_a_moved_folder_keeps_its_own(tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path / 'shared.db'}")
    ids = []
    for team in ("one", "two"):
        out = tmp_path / "runs"  # each sees its own folder under the same path
        out.mkdir()
        ids.append(find_run(client, load_config(), out))
        assert find_run(client, load_config(), out) == ids[-1]
        out.rename(tmp_path / team)
    assert ids[0] != ids[1]
    assert [find_run(client, load_config(), tmp_path / team) for team in ("one", "two")] == ids
    client.delete_run(ids[0])
    assert find_run(client, load_config(), tmp_path / "one") not in ids


def test_a_run_names_its_commit_and_the_settings_that_changed_since_its_start(database, tmp_path):
    uri, run = database
    client = MlflowClient(uri)
    first = client.get_run(run).data.tags
    assert find_run(client, load_config(None, ["train.steps=7"]), tmp_path) == run
    changed = client.get_run(run).data
    assert changed.params["train.steps"] == "400" and changed.tags["now.train.steps"] == "7"
    assert [tag for tag in changed.tags if tag.startswith("now.")] == ["now.train.steps"]
    assert changed.tags[CONFIG_TAG] != first[CONFIG_TAG]
    find_run(client, load_config(), tmp_path)  # and back
    again = client.get_run(run).data.tags
    assert again["now.train.steps"] == "400" and again[CONFIG_TAG] == first[CONFIG_TAG]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert first["mlflow.source.git.commit"].startswith(head.stdout.strip())


def test_the_rate_and_the_time_left_of_a_stage_are_metrics(tmp_path, capsys):
    with open_run(load_config(), tmp_path) as tracker:
        progress = Progress("corpus", 30, "rows", tracker.log_progress, every_s=0)
        progress.skip(10)
        for _ in range(2):
            progress.advance(10)
    assert "corpus: 30/30 rows" in capsys.readouterr().out
    assert steps(tracker.uri, tracker.outbox.run_id, "corpus/per_second") == [20, 30]
    values = MlflowClient(tracker.uri).get_run(tracker.outbox.run_id).data.metrics
    assert values["corpus/per_second"] > 0 and values["corpus/seconds_left"] == 0


def test_the_rates_of_the_actors_are_metrics_also_before_anything_is_done(tmp_path):
    with open_run(load_config(), tmp_path) as tracker:
        progress = Progress("corpus", 30, "rows", tracker.log_progress)
        progress.tell(tokens_per_second=41.0, actors=2)
    values = MlflowClient(tracker.uri).get_run(tracker.outbox.run_id).data.metrics
    assert (values["corpus/tokens_per_second"], values["corpus/actors"]) == (41, 2)
    assert "corpus/seconds_left" not in values  # it is not known yet
