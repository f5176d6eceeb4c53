"""A learning curve survives restarts and cut lines."""

from __future__ import annotations

from jointsampler.report.curve import CurvePoint, append_report, read_curve


def test_reports_come_back_by_step(tmp_path):
    path = tmp_path / "curves" / "a.jsonl"
    append_report(path, {"step": 10, "loss": 2.0, "states_per_second": 5.0})
    append_report(path, {"step": 20, "captured_k4": 0.5, "nats_k4": 0.2, "best_captured_k4": 0.6})
    assert read_curve(path) == [
        CurvePoint(step=10, loss=2.0),
        CurvePoint(step=20, captured={4: 0.5}, nats={4: 0.2}),
    ]
    assert read_curve(tmp_path / "none.jsonl") == []


def test_of_a_step_that_was_done_again_the_last_report_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    for step, loss in ((10, 2.0), (20, 1.5), (10, 1.9)):
        append_report(path, {"step": step, "loss": loss})
    assert [(p.step, p.loss) for p in read_curve(path)] == [(10, 1.9), (20, 1.5)]


def test_a_line_that_a_crash_cut_off_costs_that_report_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    append_report(path, {"step": 10, "loss": 2.0})
    with path.open("a") as file:
        file.write('{"step": 20, "lo\n')
    append_report(path, {"step": 30, "loss": 1.0})
    assert [p.step for p in read_curve(path)] == [10, 30]
