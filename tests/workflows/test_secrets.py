"""No secret of a URI or of the environment is left under OUT, in MLflow or in what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from jointsampler import storage
from jointsampler.cli import main
from jointsampler.config import load_config
from workflows import corpus, run_stage
from workflows.cli import STAGES
from workflows.tracking import open_run

SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"
SMALL = [
    "corpus.rows=6", "corpus.held_out=2", "corpus.rows_per_file=4", "corpus.max_new_tokens=8",
    "train.k_max=4", "evaluate.judge=none", "evaluate.ks=[1, 2]",
]  # fmt: skip


def holders(folder: Path) -> list[str]:
    """The files below ``folder`` that hold the secret; MLflow's database is one of them."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("stage", sorted(STAGES))
@pytest.mark.parametrize(
    "setting",
    [
        f"run.storage=s3://AKIA:{SECRET}@bucket/run",
        f"run.storage=s3://bucket/run?access_key=AKIA&secret_key={SECRET}",
        f"run.mlflow_uri=https://team:{SECRET}@mlflow.internal",
        f"run.mlflow_uri=postgresql://team:{SECRET}@db.internal/mlflow",
    ],
)
def test_a_stage_with_a_secret_in_a_uri_leaves_it_nowhere(tmp_path, capfd, stage, setting):
    assert main(["run", stage, "--out", str(tmp_path), *SMALL, setting]) == 2
    told = "".join(capfd.readouterr())
    assert "give credentials in the environment" in told and SECRET not in told
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_uri_of_the_environment_is_refused_too(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://team:{SECRET}@mlflow.internal")
    assert main(["run", "pipeline", "--out", str(tmp_path), *SMALL]) == 2
    told = "".join(capfd.readouterr())
    assert "MLFLOW_TRACKING_URI=https://mlflow.internal holds a user or password" in told
    assert SECRET not in told and not holders(tmp_path)


def test_credentials_of_the_environment_are_left_nowhere(bucket, tmp_path, capfd, monkeypatch):
    """The corpus stage on a real S3 endpoint, with its times and parameters in MLflow."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # MLflow's own calls in other tests set it.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = storage.join(bucket, "secrets")
    config = load_config(None, [*SMALL, f"run.storage={place}"])
    plan = corpus.plan(config, tmp_path)

    def run() -> dict:
        corpus.prepare(plan)
        actor = corpus.TeacherActor(plan)
        corpus.finish(plan, {index: actor.make(index)[0] for index in range(plan.shards)})
        return {"rows": plan.rows}

    with open_run(config, tmp_path) as tracker:
        run_stage.staged(config, plan, run, tracker)
    assert plan.intact()
    assert SECRET not in "".join(capfd.readouterr())
    assert (tmp_path / "mlflow.db").is_file() and not holders(tmp_path)
    params = MlflowClient(tracker.uri).get_run(tracker.outbox.run_id).data.params
    assert params["run.storage"] == "s3://runs/secrets"  # without the query
