"""``jointsampler tune`` and ``generate --method auto``, as a user calls them."""

from __future__ import annotations

import io
import json

import pytest
import torch

from jointsampler import generate
from jointsampler.cli import main
from jointsampler.tuning import Tuning, choose, frontier, pick
from jointsampler.tuning.predict import read

SMALL = ("--sampler", "none", "--batch", "1", "--length", "6", "--device", "cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder that the tests of this file share, with quick measurements."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOINTSAMPLER_CACHE", str(folder))
        patch.setattr("jointsampler.tuning.measure.TURNS", 1)
        patch.setattr("jointsampler.tuning.measure.REPEATS", 1)
        yield folder


def call(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_it_prints_the_frontier_and_the_pick_measures_once_and_writes_all(capsys, cache, tmp_path):
    file = tmp_path / "tuning.json"
    status, out, err = call(capsys, "tune", *SMALL, "--budget", "10", "--out", str(file))
    assert status == 0 and "no new walk after 60 s" in err and "timing" in err
    written = json.loads(file.read_text())
    picked = written.pop("pick")
    tuning = Tuning.model_validate(written)
    best = frontier(tuning.candidates)
    assert pick(tuning.candidates, budget=10).model_dump() == picked
    lines = out.splitlines()
    assert sum(line.startswith((">", "*  ")) for line in lines) == len(best)
    assert sum(line.startswith(">") for line in lines) == 1
    assert all(str(candidate) in out for candidate in best)
    assert f"pick: {pick(tuning.candidates, budget=10).expected()}" in lines

    status, again, err = call(capsys, "tune", *SMALL, "--budget", "0")
    assert status == 0 and err == "" and "pick: sequential: 1.00x sequential" in again
    status, again, err = call(capsys, "tune", *SMALL, "--speed", "1000")
    assert status == 2 and again == "" and f"the fastest is {best[-1]}" in err


def test_generate_takes_the_kept_tuning_and_says_its_pick(
    capsys, cache, tiny, monkeypatch, tmp_path
):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    file = tmp_path / "tuning.json"
    call(capsys, "tune", *SMALL, "--out", str(file))
    choice = choose(read(str(file)), budget=10)
    argv = (
        "generate",
        "--method",
        "auto",
        "--set",
        "budget=10",
        "--sampler",
        "none",
        "--seed",
        "3",
    )
    status, out, err = call(
        capsys, *argv, "--max-new-tokens", "6", "--device", "cpu", "--json", "--num-samples", "1",
    )  # fmt: skip
    record = json.loads(out)
    assert status == 0 and f"auto: {choice.candidate}: " in err and "tuning for" not in err
    same = generate(
        tiny, choice.update, method=choice.method, max_new_tokens=6, seed=3, **choice.settings
    )
    assert torch.equal(torch.tensor(record["tokens"]), same.responses[0])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["tune", "--budget", "1", "--speed", "2"], "give one"),
        (["tune", "--budget", "-1"], "nats per token from 0"),
        (["tune", "--teacher", "/nowhere"], "No teacher '/nowhere'"),
        (["tune", "--sampler", "/nowhere"], "No sampler in /nowhere"),
        (["tune", "--batch", "0"], "at least 1 row"),
        (["tune", "--length", "2"], "at least 4 tokens"),
        (["tune", "--length", "256"], "exceeds the context"),
        (["tune", "--limit", "0"], "positive number of seconds"),
        (["tune", "--order", "entropi"], "did you mean 'entropy'"),
        (["tune", "--temperature", "-1"], "temperature must be 0"),
        (["tune", "--threads", "-1"], "--threads must be at least 0"),
        (["tune", "--out", "/"], "is a folder"),
        (["generate", "--method", "auto", "--set", "threshold=1", "x"], "setting of method 'auto'"),
        (["generate", "--method", "auto", "--update", "refresh", "x"], "leave out --update refresh"),
        (["generate", "--method", "auto", "--columns", "8", "x"], "leave out --columns 8"),
        (["generate", "--method", "auto", "--policy", "near", "x"], "leave out --policy near"),
        (["generate", "--method", "auto", "--k", "4", "x"], "chooses k"),
        (["generate", "--method", "auto", "--cache", "prefix", "x"], "leave out block_length"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence_and_status_2(capsys, cache, argv, said):
    status, out, err = call(capsys, *argv, "--device", "cpu")
    assert status == 2 and out == ""
    assert said in err and len(err.strip().splitlines()) == 1


def test_a_prediction_keeps_the_nats_of_the_file_and_says_that_it_is_one(capsys, cache, tmp_path):
    measured_file, out_file = tmp_path / "measured.json", tmp_path / "predicted.json"
    call(capsys, "tune", *SMALL, "--out", str(measured_file))
    argv = ("tune", "--predict", "h100", "--shape", "dream-7b", "--measured", str(measured_file))
    status, out, err = call(capsys, *argv, "--batch", "8", "--budget", "10", "--out", str(out_file))
    assert status == 0 and err == ""
    assert out.startswith(
        "seconds PREDICTED for dream-7b on h100: batch 8, 6 tokens; nats measured"
    )
    before, after = read(str(measured_file)), read(str(out_file))
    assert after.predicted_for == "h100" and before.predicted_for is None
    assert [each.nats for each in after.candidates] == [each.nats for each in before.candidates]
    first, *others = after.candidates
    assert first.speedup == 1 and after.full_seconds != before.full_seconds
    marginal = [each.speedup for each in others if each.update == "none" and each.rule is None]
    assert marginal == sorted(marginal) and 4 < marginal[-1] <= 6
    rules = [each for each in others if each.rule is not None]
    assert rules and all(each.speedup <= max(map(max, each.reveals)) for each in rules)

    (tmp_path / "other.json").write_text("[]")
    wrong = ("tune", "--predict", "h100", "--shape", "dream-7b", "--measured")
    for argv, said in [
        ((*wrong, str(tmp_path / "other.json")), "is no readable tuning"),
        ((*wrong, str(tmp_path / "none.json")), "is no readable tuning"),
        ((*wrong, str(measured_file), "--batch", "0"), "at least 1 row"),
        ((*wrong, str(measured_file), "--length", "64"), "--length belongs to a measurement"),
        ((*wrong, str(measured_file), "--anew"), "--anew belongs to a measurement"),
        (("tune", "--predict", "h100", "--shape", "dream-7b"), "--measured FILE for the nats"),
        (("tune", "--shape", "dream-7b"), "add --predict"),
    ]:
        status, out, err = call(capsys, *argv)
        assert status == 2 and out == "" and said in err
