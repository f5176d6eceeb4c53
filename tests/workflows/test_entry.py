"""Mistakes end with one sentence and status 2, before any work starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workflows import entry, evaluate, pipeline, report, train

ROOT = Path(__file__).parents[2]


def refusal(main, capsys, monkeypatch, *arguments: str) -> str:
    """The one line that an entry point prints on stderr when it refuses its arguments."""
    monkeypatch.setattr(sys, "argv", ["entry", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.run(main)
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stpes=3"], "did you mean 'train.steps'"),
        (["evaluate.methods=[jiont]"], "did you mean 'joint'"),
        (["evaluate.ks=[1, 64]"], "k must lie between 1 and"),
        (["corpus.order=entropi"], "did you mean 'entropy'"),
        (["train.k_max=40"], "train.k_max=40 exceeds corpus.max_new_tokens"),
        (["train.validate_k=[40]"], "train.validate_k=40 exceeds corpus.max_new_tokens"),
        (["train.steps=0"], "name the sampler to take as it is in train.warm_start"),
        (["train.certain=0.5"], "needs train.cache_gib"),
        (["train.fresh=0.5", "train.objective=hard_labels"], "train.objective=hard_labels"),
        (["train.fresh=0.5", "corpus.anchors=2"], "no corpus.anchors"),
        (
            ["train.objective=hard_labels", "corpus.on_policy=0.5", "corpus.sampler=tiny"],
            "are the sampler's own",
        ),
        (["sampler.width=100"], "multiple of the head size"),
        (["teacher.name=absent"], "No teacher 'absent'"),
        (["corpus.prompts=absent.jsonl"], "no such file"),
        (["corpus.max_new_tokens=400"], "exceeds the context"),
        (["corpus.temperature=-1"], "temperature must be"),
        (["evaluate.judge=/no/such/judge"], "evaluate.judge=none"),
        (["run.mlflow_uri=http://127.0.0.1:9"], "Cannot use MLflow"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(
    tmp_path, capsys, monkeypatch, overrides, message
):
    out = tmp_path / "o"
    arguments = ["--out", str(out), "evaluate.judge=none", *overrides]
    assert message in refusal(pipeline.main, capsys, monkeypatch, *arguments)
    assert not (out / "corpus").exists()


def test_a_relative_out_inside_a_submitted_job_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "give an absolute path" in refusal(pipeline.main, capsys, monkeypatch, "--out", "here")


def test_an_out_that_is_a_file_is_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    arguments = ["--out", str(tmp_path / "file")]
    assert "not a writable folder" in refusal(pipeline.main, capsys, monkeypatch, *arguments)


@pytest.mark.parametrize(
    ("stage", "before"), [(train, "corpus"), (evaluate, "train"), (report, "evaluate")]
)
def test_a_stage_without_its_inputs_names_the_one_to_run_first(
    tmp_path, capsys, monkeypatch, stage, before
):
    arguments = ["--out", str(tmp_path), "evaluate.judge=none"]
    assert f"Stage {before} has not run" in refusal(stage.main, capsys, monkeypatch, *arguments)


def test_as_a_script_it_ends_with_status_2_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "workflows" / "corpus.py", "--out", tmp_path, "corpus.rwos=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'corpus.rows'" in done.stderr and "Traceback" not in done.stderr
