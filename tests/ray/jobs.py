"""Submitting the pipeline to a real Ray head, small enough for a test."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = [
    "corpus.rows=24", "corpus.held_out=8", "corpus.rows_per_file=8", "corpus.max_new_tokens=8",
    "train.steps=12", "train.batch_size=4", "train.k_max=4", "train.report_every=4",
    "train.validate_every=6", "train.save_every=6", "train.validate_rows=8", "sampler.width=32",
    "evaluate.samples=12", "evaluate.samples_per_item=6", "evaluate.ks=[1, 2, 4]",
    "evaluate.kmeans_seeds=2", "evaluate.shown=2",
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, seconds: float = 90) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert process.poll() is None, "ray start ended"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer in {seconds} s")


def submit(head, out: Path, *overrides: str) -> str:
    address, environment = head
    done = subprocess.run(
        [
            *("ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--"),
            *("python", "workflows/pipeline.py", "--config", "workflows/configs/quickstart.yaml"),
            *("--out", str(out), *SMALL, *overrides),
        ],
        env=environment, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout
