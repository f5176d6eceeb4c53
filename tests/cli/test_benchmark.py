"""``jointsampler benchmark``, as a user calls it."""

from __future__ import annotations

import pytest

from jointsampler.benchmark import Benchmark
from jointsampler.cli import main

QUICK = ("--batch", "1", "--length", "8", "--k", "1", "2", "--columns", "4", "--repeats", "1")


def call(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(["benchmark", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_measurement_is_printed_and_written(capsys, tmp_path):
    out_file = tmp_path / "speed.json"
    status, out, err = call(capsys, *QUICK, "--device", "cpu", "--out", str(out_file))
    assert status == 0 and err == "batch 1, 8 tokens\n"
    result = Benchmark.model_validate_json(out_file.read_text())
    assert result.table() in out and not result.predicted
    assert (result.teacher, result.device, result.dtype) == (
        "tiny, random weights",
        "cpu",
        "float32",
    )
    assert result.machine["cores"] and result.packages["torch"]


def test_a_prediction_runs_nothing_and_says_that_it_is_one(capsys, tmp_path):
    out_file = tmp_path / "speed.json"
    status, out, err = call(
        capsys, "--shape", "llada-8b", "--predict", "a100-80gb", "--length", "64", "128", "--out", str(out_file)
    )  # fmt: skip
    result = Benchmark.model_validate_json(out_file.read_text())
    assert status == 0 and err == "" and out.startswith("PREDICTED for a100-80gb, nothing was run")
    assert result.predicted and {step.length for step in result.steps} == {64, 128}


def test_a_named_teacher_is_predicted_by_its_own_shape(capsys):
    _, named, _ = call(capsys, "--teacher", "tiny", "--predict", "h200")
    _, shape, _ = call(capsys, "--shape", "tiny", "--predict", "h200")
    assert named == shape


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--shape", "dream7b"], "did you mean 'dream-7b'"),
        (["--shape", "tiny", "--teacher", "tiny"], "give one of them"),
        (["--teacher", "/nowhere"], "No teacher '/nowhere'"),
        (["--predict", "h10"], "did you mean 'h100'"),
        (["--predict", "h100", "--dtype", "float16"], "bfloat16 peaks"),
        (["--predict", "h100", "--device", "cpu"], "leave out --device cpu"),
        (["--batch", "0"], "at least 1 row"),
        (["--length", "2"], "at least 4 tokens"),
        (["--length", "256"], "does not fit the 256 positions"),
        (["--k", "65"], "k must lie between 1 and"),
        (["--columns", "0"], "at least 1 column"),
        (["--policy", "nearr"], "did you mean 'near'"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--threads", "-1"], "--threads must be at least 0"),
        (["--device", "gpu"], "No device 'gpu'"),
        (["--out", "/"], "is a folder"),
        (["--out", "/dev/null/speed.json"], "Cannot use storage"),
    ],
)
def test_bad_values_are_one_sentence_and_status_2(capsys, argv, said):
    status, out, err = call(capsys, *argv)
    assert status == 2 and out == ""
    assert said in err and len(err.strip().splitlines()) == 1
