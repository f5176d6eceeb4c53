"""Submitting the pipeline to a real Ray head, small enough for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ray.nodes import Head, end

ROOT = Path(__file__).parents[2]
SMALL = [
    "corpus.rows=24", "corpus.held_out=8", "corpus.rows_per_file=8", "corpus.max_new_tokens=8",
    "train.steps=12", "train.batch_size=4", "train.k_max=4", "train.report_every=4",
    "train.validate_every=6", "train.save_every=6", "train.validate_rows=8", "sampler.width=32",
    "sampler.features=1",  # the tiny checkpoints have two layers
    "evaluate.samples=12", "evaluate.samples_per_item=6", "evaluate.ks=[1, 2, 4]",
    "evaluate.kmeans_seeds=2", "evaluate.shown=2",
]  # fmt: skip


def submit(head: Head, out: Path, *overrides: str) -> str:
    """The log of the pipeline, submitted to ``head`` and finished."""
    done = subprocess.run(
        [
            *("ray", "job", "submit", "--address", head.address, "--working-dir", str(ROOT), "--"),
            *("python", "workflows/pipeline.py", "--config", "workflows/configs/quickstart.yaml"),
            *("--out", str(out), *SMALL, *overrides),
        ],
        env=head.environment, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def start(head: Head, stage: str, out: Path, *overrides: str) -> subprocess.Popen:
    """A stage's driver as a process of its own on ``head``'s cluster, its output in OUT/STAGE.log."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{stage}.log").open("a") as log:
        return subprocess.Popen(
            [
                *(sys.executable, ROOT / "workflows" / f"{stage}.py", "--out", out),
                *("--config", ROOT / "workflows/configs/quickstart.yaml", *SMALL, *overrides),
            ],
            env=head.driver_environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def finish(process: subprocess.Popen, out: Path, stage: str, seconds: float = 240) -> str:
    """Wait for a driver that must succeed; its log."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        end(process)
        status = None
    log = (out / f"{stage}.log").read_text()
    assert status == 0, log[-6000:]
    return log
