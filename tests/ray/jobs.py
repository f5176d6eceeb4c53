"""Submitting the pipeline to a real Ray head, small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ray.nodes import PATIENCE, Head, end

ROOT = Path(__file__).parents[2]
SMALL = [
    "corpus.rows=24", "corpus.held_out=8", "corpus.rows_per_file=8", "corpus.max_new_tokens=8",
    "train.steps=12", "train.batch_size=4", "train.k_max=4", "train.report_every=4",
    "train.validate_every=6", "train.save_every=6", "train.validate_rows=8", "sampler.width=32",
    "sampler.depth=1",  # the tiny checkpoints have two layers
    "evaluate.samples=12", "evaluate.samples_per_item=6", "evaluate.ks=[1, 2, 4]",
    "evaluate.generation_seeds=2", "evaluate.kmeans_seeds=2", "evaluate.shown=2",
]  # fmt: skip


def begin(head: Head, out: Path, *overrides: str) -> subprocess.Popen:
    """The pipeline submitted to ``head`` as a job, its log in OUT/job.log."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "job.log").open("a") as log:
        return subprocess.Popen(
            [
                *("ray", "job", "submit", "--address", head.address, "--working-dir", ROOT, "--"),
                *("python", "workflows/pipeline.py", "--out", out, *SMALL, *overrides),
                *("--config", "workflows/configs/quickstart.yaml"),
            ],
            env=head.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def submit(head: Head, out: Path, *overrides: str) -> str:
    """The log of the pipeline, submitted to ``head`` and finished."""
    before = len((out / "job.log").read_text()) if (out / "job.log").exists() else 0
    return finish(begin(head, out, *overrides), out, "job", 420)[before:]


def start(
    head: Head, stage: str, out: Path, *overrides: str, log: Path | None = None
) -> subprocess.Popen:
    """``jointsampler run STAGE`` as a process of its own on ``head``'s cluster, its output in OUT/STAGE.log.

    ``log``: another folder for the output, for a test whose OUT cannot be written.
    """
    if log is None:
        out.mkdir(parents=True, exist_ok=True)
    with ((log or out) / f"{stage}.log").open("a") as output:
        return subprocess.Popen(
            [
                *(Path(sys.executable).with_name("jointsampler"), "run", stage, "--out", out),
                *("--config", "quickstart", *SMALL, *overrides),
            ],
            env=head.driver_environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def finish(process: subprocess.Popen, out: Path, stage: str, seconds: float = 240) -> str:
    """Wait for a driver that must succeed; its log."""
    try:
        status = process.wait(seconds * PATIENCE)
    except subprocess.TimeoutExpired:
        end(process)
        status = None
    log = (out / f"{stage}.log").read_text()
    assert status == 0, log[-6000:]
    return log
