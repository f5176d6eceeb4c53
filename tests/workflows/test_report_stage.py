"""The report stage collects what the out folder says about the run."""

from __future__ import annotations

from jointsampler.config import load_config
from jointsampler.report.curve import CurvePoint
from workflows import report
from workflows.source import commit
from workflows.stage import run_once
from workflows.tracking import TrainReporter


class NoOutbox:
    """Takes calls and makes none."""

    def put(self, call, *args):
        return None


def test_the_record_of_a_run_holds_its_stages_its_curve_and_its_origin(tmp_path):
    plan = report.plan(load_config(None, ["evaluate.judge=none"]), tmp_path)
    run_once(plan.evaluate.train, lambda: {}, lambda: 12.34)
    reporter = TrainReporter(NoOutbox(), 8, plan.evaluate.train.curve)
    rates = {"states_per_second": 1.0, "seconds_left": 1.0}
    reporter.after_report(None, [{"step": 4, "loss": 1.5, "captured_k4": 0.5, **rates}], None)
    made = report.record(plan, "d1", "r1")
    assert (made.name, made.config_digest, made.mlflow_run) == (tmp_path.name, "d1", "r1")
    stage = made.stages["train"]
    assert set(made.stages) == {"train"} and stage.forecast_seconds == 12.3
    assert stage.commit == commit() and stage.finished is not None
    assert made.curve == [CurvePoint(step=4, loss=1.5, captured={4: 0.5})]


def test_another_training_in_the_same_folder_has_a_curve_of_its_own(tmp_path):
    a, b = (
        report.plan(load_config(None, ["evaluate.judge=none", f"train.steps={steps}"]), tmp_path)
        for steps in (10, 20)
    )
    assert a.evaluate.train.curve != b.evaluate.train.curve


def test_a_curve_that_cannot_be_written_ends_no_training(tmp_path, capfd):
    (tmp_path / "curves").write_text("a file where the folder should be")
    reporter = TrainReporter(NoOutbox(), 8, tmp_path / "curves" / "a.jsonl")
    report_ = {"step": 4, "loss": 1.5, "states_per_second": 1.0, "seconds_left": 1.0}
    reporter.after_report(None, [report_], None)
    assert "misses step 4" in capfd.readouterr().err
