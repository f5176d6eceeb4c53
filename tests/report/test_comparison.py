"""Runs side by side: what differs, what lies inside the noise, and what cannot be said."""

from __future__ import annotations

import re

import pytest

from jointsampler import UserError
from jointsampler.cli import main
from jointsampler.evaluation.results import write_results
from jointsampler.evaluation.stats import Interval
from jointsampler.report.differences import compared_aups, comparisons, settings_that_differ
from jointsampler.report.page import write_comparison
from jointsampler.report.record import (
    Run,
    RunRecord,
    distinctly_named,
    read_run,
    results_file,
    write_record,
)
from tests.evaluation.test_pairing import file
from tests.report.test_report import around, interval, made, run_of, with_statistics, words


def moved(**values: float) -> Run:
    """The run of :func:`made` under another name, with other figures for joint at k = 4."""
    results = made(judge=True)
    row = results.of("joint", 4)
    for name, value in values.items():
        setattr(row, name, Interval(**around(value)) if name in ("nll", "mauve") else value)
    return Run(results, RunRecord(name="day"))


def joint(runs: list[Run]) -> dict[str, tuple]:
    (found,) = [c for c in comparisons(runs) if c.title == "joint, k = 4"]
    return {name: (values, rest) for name, values, (rest, *_) in found.rows}


def test_without_both_intervals_there_is_no_verdict():
    rows = joint([run_of(made(judge=True)), moved(tokens_per_second=18.0)])
    values, found = rows["tokens/s"]
    assert values == ["9", "18"] and (found.text, found.verdict) == ("+9", "no interval")


def test_a_difference_inside_the_noise_is_said_to_be_so():
    _, found = joint([run_of(made(judge=True)), moved(mauve=0.85)])["MAUVE"]
    assert (found.verdict, found.look) == ("inside the noise", "noise")
    assert found.text == "+0.040 [-0.031, +0.111]"


@pytest.mark.parametrize(("mauve", "verdict"), [(0.95, "better"), (0.6, "worse")])
def test_a_difference_outside_the_noise_is_better_or_worse(mauve, verdict):
    _, found = joint([run_of(made(judge=True)), moved(mauve=mauve)])["MAUVE"]
    assert found.verdict == found.look == verdict


def test_less_nll_is_not_called_better():
    _, found = joint([run_of(made(judge=True)), moved(nll=3.0)])["NLL"]
    assert (found.verdict, found.look) == ("less", "other")


def test_runs_with_the_same_items_are_compared_in_pairs(tmp_path):
    """What the intervals alone leave inside the noise: joint's nats fall from .5 to .45 of the items'."""
    runs = [Run(file(gain, seed), RunRecord(name=name)) for gain, seed, name in (
        (0.5, 1, "night"), (0.45, 2, "day"),
    )]  # fmt: skip
    found = joint(runs)["KL, nats per token"][1]
    assert (found.verdict, found.pairs, found.unpaired) == ("better", "paired, n = 64", "")
    said = words(write_comparison(runs, tmp_path).read_text())
    assert re.search(r"Not paired, because a file holds the interval alone, [^.]*MAUVE", said)
    runs[1].results.items["nats_per_token"] = "other"
    found = joint(runs)["KL, nats per token"][1]
    assert (found.verdict, found.pairs) == ("inside the noise", "unpaired")
    said = words(write_comparison(runs, tmp_path).read_text())
    assert (
        "because the prompts, seeds or conditions of the sampling differ: KL, nats per token"
        in said
    )


def test_aups_are_compared_where_both_runs_have_them(tmp_path):
    runs = [run_of(with_statistics(made(judge=True))), moved()]
    assert compared_aups(runs) is None
    runs[1] = Run(with_statistics(made(judge=True)), RunRecord(name="day"))
    runs[1].results.curves[0].aup = interval(200.0)
    ((label, values, (found,)),) = compared_aups(runs).rows
    assert (label, values[1]) == ("joint", "200.0 [199.9, 200.1]")
    assert (found.verdict, found.pairs) == ("worse", "unpaired")
    page = write_comparison(runs, tmp_path).read_text()
    assert 'id="accuracy"' in page and "day: joint, k = 4" in page


def test_what_is_exact_in_both_is_equal():
    runs = [run_of(made(judge=True)), moved()]
    first = comparisons(runs)[0]
    assert first.title == "sequential"
    ((_, _, (found,)),) = [row for row in first.rows if row[0] == "KL, own order"]
    assert (found.text, found.verdict) == ("0", "equal")


def test_settings_of_one_run_alone_are_named_and_other_teachers_warned_of(tmp_path):
    other = moved()
    other.results.methods.pop()
    other.results.teacher.fingerprint = "cd"
    said = words(write_comparison([run_of(made(True)), other], tmp_path).read_text())
    assert "In one run only: joint, k = 4 (night)." in said
    assert "different teachers" in said and "different machines" not in said


def test_the_page_holds_both_runs_and_their_settings(tmp_path):
    other = moved(mauve=0.6)
    other.results.config["train"] = {"steps": 7}
    page = write_comparison([run_of(made(True)), other], tmp_path).read_text()
    assert settings_that_differ([run_of(made(True)), other]) == [("train.steps", ["3", "7"])]
    assert re.search(r"train\.steps</th><td[^>]*>3</td><td[^>]*>7</td>", page)
    assert 'data-name="day: joint, k = 4"' in page and "day: sequential" in page
    assert "1 of 18 differences with an interval lie outside the noise" in words(page)


def test_runs_of_one_name_are_told_apart():
    runs = distinctly_named([run_of(made(True)), moved(), run_of(made(True))])
    assert [run.name for run in runs] == ["night (1)", "day", "night (2)"]


def test_a_run_is_found_by_its_out_folder_its_report_or_its_results(tmp_path):
    folder = tmp_path / "mine" / "report"
    folder.mkdir(parents=True)
    write_results(made(True), folder / "results.json")
    places = {results_file(p) for p in (tmp_path / "mine", folder, folder / "results.json")}
    assert places == {folder / "results.json"}
    assert read_run(*places).name == "mine"  # without a run.json
    write_record(RunRecord(name="night"), folder)
    assert read_run(*places).name == "night"
    (folder / "run.json").write_text('{"name": "x", "stagse": {}}')
    with pytest.raises(UserError, match=r"run\.json of this version \(stagse"):
        read_run(*places)


def test_the_command_writes_one_report_or_a_comparison(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_results(made(True), tmp_path / name / "results.json")
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    assert main(["report", a]) == 0
    assert "Joint sampling report: a" in (tmp_path / "a" / "index.html").read_text()
    assert main(["report", a, b, "--out", out]) == 0
    assert "Comparison: a, b" in (tmp_path / "out" / "index.html").read_text()
    assert main(["report", a, str(tmp_path / "nothing")]) == 2
    assert "holds no results: name the --out folder" in capsys.readouterr().err
    assert main(["report", a, a]) == 2
    assert "named twice" in capsys.readouterr().err
