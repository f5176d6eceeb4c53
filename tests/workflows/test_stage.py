"""A stage runs once for its inputs, and a later stage requires its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jointsampler import UserError
from workflows.stage import MANIFEST, digest, require, run_once


@dataclass(frozen=True)
class Plan:
    out: Path
    key: str = "a"

    stage = "corpus"

    def intact(self) -> bool:
        return (self.out / "rows").exists()


def make(plan: Plan) -> dict:
    (plan.out / "rows").write_text("rows")
    return {"rows": 3}


def test_a_finished_stage_is_skipped_until_its_inputs_change(tmp_path, capsys):
    runs = []

    def run(plan):
        return run_once(plan, lambda: runs.append(plan.key) or make(plan))

    assert run(Plan(tmp_path)) == run(Plan(tmp_path)) == {"rows": 3}
    assert runs == ["a"] and "nothing changed, skipped" in capsys.readouterr().out
    run(Plan(tmp_path, "b"))
    assert runs == ["a", "b"]


def test_a_stage_whose_outputs_are_gone_runs_again(tmp_path):
    run_once(Plan(tmp_path), lambda: make(Plan(tmp_path)))
    (tmp_path / "rows").unlink()
    run_once(Plan(tmp_path), lambda: make(Plan(tmp_path)))
    assert (tmp_path / "rows").exists()


def test_a_later_stage_gets_the_results_or_a_sentence(tmp_path):
    plan = Plan(tmp_path)
    with pytest.raises(
        UserError, match=r"Stage corpus has not run in .*: run jointsampler run corpus"
    ):
        require(plan)
    run_once(plan, lambda: make(plan))
    assert require(plan) == {"rows": 3}
    (tmp_path / "rows").unlink()
    with pytest.raises(UserError, match=r"Outputs of stage corpus .* are missing or damaged"):
        require(plan)


def test_a_stage_that_fails_leaves_no_entry(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_once(Plan(tmp_path), lambda: {"x": 1 / 0})
    assert not (tmp_path / MANIFEST).exists()


def test_a_manifest_that_is_no_json_is_named(tmp_path):
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"is not valid JSON .*: delete it"):
        require(Plan(tmp_path))


def test_a_digest_depends_on_every_part():
    assert digest(1, {"a": 2}) == digest(1, {"a": 2})
    assert len({digest(1, 2), digest(2, 1), digest([1, 2]), digest(12)}) == 4
