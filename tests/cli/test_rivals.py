"""``jointsampler compare --rivals``, as a user calls it."""

from __future__ import annotations

import pytest

from jointsampler.cli import main
from jointsampler.evaluation.results import read_results

COMMAND = ("compare", "--rivals", "--prompts-per-task", "1", "--max-new-tokens", "8", "--sampler", "none", "--device", "cpu")  # fmt: skip


def test_one_command_makes_the_table_and_its_files(capsys, tmp_path):
    """Rows that need no training are made without one."""
    status = main([*COMMAND, "--out", str(tmp_path), "--methods", "dual cache"])
    out = capsys.readouterr().out
    assert status == 0 and "trained in" not in out and "9 prompts" in out
    results = read_results(tmp_path / "results.json")
    rows = results.methods
    names = ["sequential", *["dual cache"] * 3]
    assert [row.method for row in rows] == names
    assert all(row.samples == 9 and row.accuracy.low is not None for row in rows)
    assert rows[0].cost.value == 1 > rows[-1].cost.value
    assert [curve.label for curve in results.curves] == ["dual cache"] and "dual cache: AUP" in out
    said = [d for d in results.differences if d.metric == "accuracy"]
    assert [d.against for d in said] == ["sequential"] * 3
    assert all(f"accuracy of {d.row} minus that of sequential: {d}" in out for d in said)
    assert "## Accuracy against speed" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "compare.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--samples", "8"], "leave out --samples."),
        (["--k", "4", "--order", "random", "--judge", "none"], "leave out --k, --order, --judge."),
    ],
)
def test_settings_that_the_rows_have_themselves_are_refused(capsys, argv, said):
    status = main([*COMMAND, *argv])
    assert status == 2 and said in capsys.readouterr().err


def test_a_base_that_is_not_measured_is_refused(capsys):
    status = main([*COMMAND, "--methods", "dual cache", "--against", "refresh"])
    err = capsys.readouterr().err
    assert status == 2 and "none of the methods measured here: dual cache, sequential." in err


def test_a_length_that_blocks_do_not_divide_is_refused_before_any_training(capsys):
    status = main([*COMMAND, "--max-new-tokens", "12"])
    assert status == 2 and "multiple of it, not 12" in capsys.readouterr().err


def test_a_method_that_is_no_rival_is_refused(capsys):
    status = main([*COMMAND, "--methods", "dual cash"])
    assert status == 2 and "did you mean 'dual cache'" in capsys.readouterr().err
