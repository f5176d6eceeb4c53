"""Mistakes end with one sentence and status 2, before any work starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "workflows" / "pipeline.py"


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "workflows" / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stpes=3"], "did you mean 'train.steps'"),
        (["evaluate.methods=[jiont]"], "did you mean 'joint'"),
        (["evaluate.ks=[1, 64]"], "k must lie between 1 and"),
        (["corpus.order=entropi"], "did you mean 'entropy'"),
        (["train.k_max=40"], "train.k_max=40 exceeds corpus.max_new_tokens"),
        (["sampler.width=100"], "multiple of the head size"),
        (["teacher.name=absent"], "No teacher 'absent'"),
        (["corpus.prompts=absent.jsonl"], "Cannot read prompts"),
        (["corpus.max_new_tokens=400", "train.k_max=8"], "exceeds the context"),
        (["run.mlflow_uri=http://127.0.0.1:9"], "Cannot use MLflow"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(tmp_path, overrides, message):
    done = run("pipeline.py", "--out", str(tmp_path / "o"), "evaluate.judge=none", *overrides)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o" / "corpus").exists()


def test_a_relative_out_inside_a_submitted_job_is_refused():
    done = run("pipeline.py", "--out", "here", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert done.returncode == 2
    assert "give an absolute path" in done.stderr


def test_an_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("pipeline.py", "--out", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "not a writable folder" in done.stderr


@pytest.mark.parametrize("stage", ["train", "evaluate", "report"])
def test_a_stage_without_its_inputs_names_the_one_to_run_first(tmp_path, stage):
    done = run(f"{stage}.py", "--out", str(tmp_path), "evaluate.judge=none")
    before = {"train": "corpus", "evaluate": "train", "report": "evaluate"}[stage]
    assert done.returncode == 2
    assert f"Stage {before} has not run" in done.stderr and "Traceback" not in done.stderr
