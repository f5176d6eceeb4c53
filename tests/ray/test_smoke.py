"""The whole chain once, small: corpus, Muon with ZeRO 1, evaluation, benchmark.

    make smoke

On a machine with a CUDA device that part runs in bfloat16 on it, with Muon's compiled
steps; one device is enough, two divide the optimizer. Everywhere the same claims hold of
a run on the CPU, which is one of ``test_pipeline.py``'s.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from jointsampler import JointSampler
from jointsampler.benchmark import Benchmark
from jointsampler.cli import main
from jointsampler.evaluation.results import read_results
from tests.ray.jobs import submit
from tests.ray.nodes import Head

LIMIT_S = 600


def check_run(out: Path, workers: int) -> None:
    """The claims of a finished run, on whatever device."""
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    assert list(stages) == ["corpus", "train", "evaluate", "report"]
    assert main(["verify-corpus", str(out / "corpus")]) == 0
    training = stages["train"]["results"]
    assert training["step"] == 12 and math.isfinite(training["loss"])
    JointSampler.from_pretrained(out / "sampler")
    results = read_results(out / "report" / "results.json")
    assert results.config["train"] | {
        "optimizer": "muon", "zero_stage": 1, "workers": workers,
    } == results.config["train"]  # fmt: skip
    for path in ("recorded", "own"):
        assert results.of("refresh", 2).kl[path].captured.value > 0.5
        assert math.isfinite(results.of("joint", 2).kl[path].captured.value)


def check_benchmark(folder: Path, device: str, dtype: str) -> None:
    file = folder / "speed.json"
    small = ["--batch", "1", "2", "--length", "8", "--k", "2", "--columns", "4", "--repeats", "1"]
    assert main(["benchmark", "--device", device, "--out", str(file), *small]) == 0
    result = Benchmark.model_validate_json(file.read_text())
    assert (result.device.split(":")[0], result.dtype, result.predicted) == (device, dtype, False)


def test_the_chain_on_a_cpu(two_runs, tmp_path):
    check_run(two_runs[0] / "a", workers=2)
    check_benchmark(tmp_path, "cpu", "float32")


@pytest.mark.gpu
def test_the_chain_on_a_gpu_in_bfloat16_within_ten_minutes(judge_folder, tmp_path):
    began, workers = time.monotonic(), min(2, torch.cuda.device_count())
    settings = [
        *("teacher.device=cuda", "teacher.dtype=bfloat16", f"evaluate.judge={judge_folder}"),
        *("train.optimizer=muon", "train.zero_stage=1", "train.precision=bfloat16"),
        *(f"corpus.actors={workers}", f"train.workers={workers}", f"evaluate.actors={workers}"),
    ]
    with Head(cpus=4) as head:
        log = submit(head, tmp_path / "run", *settings)
    assert "train: step 12/12" in log
    check_run(tmp_path / "run", workers)
    check_benchmark(tmp_path, "cuda", "bfloat16")
    assert time.monotonic() - began < LIMIT_S


@pytest.mark.gpu
def test_muons_steps_compile_on_a_gpu_and_give_orthogonal_matrices():
    from deepspeed.runtime.zero.muon.original_muon import zeropower_via_newtonschulz5

    matrix = torch.randn(64, 128, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    step = zeropower_via_newtonschulz5(matrix, steps=5)
    singular = torch.linalg.svdvals(step.float())
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.5
