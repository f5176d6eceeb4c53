"""``jointsampler run``: mistakes end with one sentence and status 2, before any work starts."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from jointsampler.cli import main
from workflows.cli import PRESETS, STAGES, config_file

ROOT = Path(__file__).parents[2]


def refusal(capsys, *arguments: object) -> str:
    """The one line on stderr of ``jointsampler run`` with arguments that it refuses."""
    assert main(["run", *map(str, arguments)]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("jointsampler: ")]
    return line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.stpes=3"], "did you mean 'train.steps'"),
        (["evaluate.methods=[jiont]"], "did you mean 'joint'"),
        (["evaluate.ks=[1, 64]"], "k must lie between 1 and"),
        (["corpus.order=entropi"], "did you mean 'entropy'"),
        (["train.k_max=40"], "train.k_max=40 exceeds corpus.max_new_tokens"),
        (["train.validate_k=[40]"], "train.validate_k=40 exceeds corpus.max_new_tokens"),
        (["train.validate_k=[]"], "at least 1 item"),
        (["train.steps=0"], "name the sampler to take as it is in train.warm_start"),
        (["sampler.depth=10"], "a sampler's depth lies between 0 (the paper's form) and 9, not 10"),
        (["columns.policy=atention"], "did you mean 'attention'"),
        (["train.zero_stage=3"], "set train.zero_stage to 2 or less"),
        (["train.warm_start=tiny"], "holds a sampler of another shape"),
        (["sampler.width=100"], "multiple of the head size"),
        (["teacher.name=absent"], "No teacher 'absent'"),
        (["corpus.prompts=absent.jsonl"], "no such file"),
        (["corpus.max_new_tokens=400"], "exceeds the context"),
        (["corpus.temperature=-1"], "temperature must be"),
        (["evaluate.judge=/no/such/judge"], "evaluate.judge=none"),
        (["run.mlflow_uri=http://127.0.0.1:9"], "Cannot use MLflow"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(tmp_path, capsys, overrides, message):
    out = tmp_path / "o"
    arguments = ["pipeline", "--out", out, "evaluate.judge=none", *overrides]
    assert message in refusal(capsys, *arguments)
    assert not (out / "corpus").exists()


def test_a_relative_out_inside_a_submitted_job_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "give an absolute path" in refusal(capsys, "pipeline", "--out", "here")


def test_an_out_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "not a writable folder" in refusal(capsys, "corpus", "--out", tmp_path / "file")


@pytest.mark.parametrize(
    ("stage", "before"),
    [("sweep", "corpus"), ("train", "corpus"), ("evaluate", "corpus"), ("report", "evaluate")],
)
def test_a_stage_without_its_inputs_names_the_one_to_run_first(tmp_path, capsys, stage, before):
    arguments = [stage, "--out", tmp_path, "evaluate.judge=none"]
    if stage == "sweep":
        arguments.append("sweep.space={train.seed: [0, 1]}")
    assert f"Stage {before} has not run" in refusal(capsys, *arguments)


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"estimate"}))
def test_every_stage_prints_its_plan_and_starts_nothing(tmp_path, capsys, stage):
    out = tmp_path / "o"
    overrides = ["evaluate.judge=none", "estimate.gpus=4"]
    assert main(["run", stage, "--out", str(out), "--plan", *overrides]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Forecast for 4 GPUs" in lines[0] and "nothing has been started" in lines[0]
    assert [line.split()[0] for line in lines[2:-1]] == ["corpus", "train", "evaluate", "all"]
    assert "activeDeadlineSeconds" in lines[-1]
    assert list(out.iterdir()) == []


def test_a_preset_is_named_and_overrides_may_stand_anywhere(tmp_path, capsys):
    assert config_file("quickstart") == PRESETS / "quickstart.yaml"
    assert config_file("my/quickstart.yaml") == Path("my/quickstart.yaml")
    arguments = ["train.steps=77", "--plan", "--config", "quickstart", "evaluate.judge=none"]
    assert main(["run", "pipeline", *arguments, "--out", str(tmp_path), "corpus.rows=64"]) == 0
    told = capsys.readouterr().out
    assert "77 steps" in told and "160 rows" in told


def test_pipeline_py_is_the_same_command_as_a_file(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "workflows" / "pipeline.py", "--out", tmp_path, "corpus.rwos=1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "did you mean 'corpus.rows'" in done.stderr and "Traceback" not in done.stderr


def test_no_module_beside_pipeline_py_hides_an_installed_package():
    """Python puts the folder of a script first on its path."""
    own = {path.stem for path in (ROOT / "workflows").iterdir() if path.suffix in ("", ".py")}
    assert not (own - {"__init__", "__pycache__"}) & set(packages_distributions())
