"""A training with 5, then 3, then 4 workers, as nodes are lost and join, has the losses of one worker."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, end, wait_until

pytestmark = pytest.mark.slow

# 64 states on 5 workers are 13, 13, 13, 13 and 12. The training is longer than the test.
TRAIN = [
    "train.steps=100000", "train.batch_size=64", "train.warmup_steps=5", "train.report_every=5",
    "train.save_every=10", "train.validate_every=100000", "train.validate_k=[2]",
    "train.precision=float32", "train.cache_gib=0.2", "sampler.depth=3",
    # Small steps: with a fifth of the preset's, rounding grows little over the thousand steps that
    # may pass until Ray adds a worker (with the preset's, from 1e-7 to 3e-2).
    "train.muon_lr=0.003", "train.lr=0.0004",
]  # fmt: skip
ELASTIC = [*TRAIN, "train.workers=5", "train.min_workers=1"]
TOLERANCE = 5e-3  # relative, of a loss; it is printed to four decimals


@pytest.fixture(scope="module")
def head_alone() -> Iterator[Head]:
    """A head that takes no work; the nodes are the tests' own."""
    with Head(cpus=0) as head:
        yield head


@pytest.fixture(scope="module")
def corpus(head_alone: Head, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    node = head_alone.add_node(cpus=1)
    finish(start(head_alone, "corpus", out, "corpus.actors=1", "corpus.rows=64"), out, "corpus")
    end(node)
    return out


def losses(log: str) -> list[tuple[int, float]]:
    """(step, mean loss of the steps since the last report) of every report, in their order."""
    return [(int(at), float(loss)) for at, loss in re.findall(r"step (\d+)/.*?loss ([\d.]+)", log)]


def trained_until(condition, driver, log: Path, seconds: float, what: str) -> str:
    def reached() -> bool:
        assert driver.poll() is None, log.read_text()[-4000:]
        return condition(log.read_text())

    wait_until(reached, seconds, what)
    return log.read_text()


def reports_after(line: str, count: int):
    """Whether ``count`` reports follow the first ``line`` of a log."""
    return lambda log: line in log and len(losses(log.split(line)[-1])) >= count


def kill(driver) -> None:
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()


def test_five_then_three_then_four_workers_have_the_loss_curve_of_one(
    head_alone: Head, corpus: Path, tmp_path: Path
):
    three, two = head_alone.add_node(cpus=3), head_alone.add_node(cpus=2)
    out = Path(shutil.copytree(corpus, tmp_path / "elastic"))
    log = out / "train.log"
    driver = start(head_alone, "train", out, "corpus.rows=64", *ELASTIC)
    try:
        trained_until(lambda text: len(losses(text)) >= 5, driver, log, 240, "25 steps of five")
        assert len(head_alone.workers("RayTrainWorker")) == 5
        os.killpg(two.pid, signal.SIGKILL)  # the raylet and its two workers
        trained_until(reports_after("on 3 workers", 3), driver, log, 240, "steps of three")
        one = head_alone.add_node(cpus=1)
        text = trained_until(reports_after("on 4 workers", 3), driver, log, 300, "steps of four")
    finally:
        kill(driver)
    for node in (two, one):
        end(node)
    wait_until(lambda: not head_alone.workers("RayTrainWorker"), 60, "the workers end")
    assert "fresh optimizer" not in text

    other = Path(shutil.copytree(corpus, tmp_path / "one"))
    log = other / "train.log"
    elastic, last = losses(text), max(step for step, _ in losses(text))
    driver = start(head_alone, "train", other, "corpus.rows=64", *TRAIN, "train.workers=1")
    try:
        done = trained_until(
            lambda text: (losses(text) or [(0, 0)])[-1][0] >= last,
            driver,
            log,
            400,
            "as many steps",
        )
    finally:
        kill(driver)
        end(three)
    even = dict(losses(done))
    for phase, workers in zip(re.split(r"on [34] workers", text), (5, 3, 4), strict=True):
        apart = [abs(loss / even[step] - 1) for step, loss in losses(phase)]
        print(f"{workers} workers, {len(apart)} reports up to step {losses(phase)[-1][0]}: "
              f"largest relative difference {max(apart):.1e}")  # fmt: skip
    assert even[last] < 0.95 * even[5]
    for step, loss in elastic:
        assert loss == pytest.approx(even[step], rel=TOLERANCE), step
