"""Where the plan of a sweep says two trials at a time, two run at a time."""

from __future__ import annotations

import pytest

from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, wait_until

pytestmark = pytest.mark.slow

SWEEP = [
    "sweep.space={sampler.width: [32, 64], train.seed: [0, 1]}", "sweep.steps=40",
    "train.validate_every=40", "train.validate_k=[2]", "train.save_every=40",
]  # fmt: skip


def test_two_cores_run_two_of_four_trials_at_a_time(tmp_path):
    with Head(cpus=2) as head:
        finish(start(head, "corpus", tmp_path), tmp_path, "corpus")
        driver = start(head, "sweep", tmp_path, *SWEEP)
        seen = set()

        def ended() -> bool:
            seen.add(len(head.workers("RayTrainWorker")))
            return driver.poll() is not None

        wait_until(ended, 240, "the sweep ends")
        log = finish(driver, tmp_path, "sweep")
    assert "sweep: 2 of 4 trials at a time" in log
    assert max(seen) == 2  # a trial has one worker
    assert len(list((tmp_path / "sweep").glob("*/model.safetensors"))) == 4
