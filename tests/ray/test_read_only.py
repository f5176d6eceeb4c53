"""Storage that cannot be written is named in one sentence, and complete files in it are used again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jointsampler.corpus.manifest import verify_corpus
from tests.ray.jobs import finish, start
from tests.ray.nodes import PATIENCE, Head, wait_until

pytestmark = pytest.mark.slow

# Long enough to be caught in the middle: one actor, twelve shards of half a second.
CORPUS = [
    "corpus.rows=184", "corpus.held_out=8", "corpus.rows_per_file=16", "corpus.max_new_tokens=32",
    "corpus.actors=1",
]  # fmt: skip


class Disk:
    """A file system of its own, which can be made read-only: modes do not stop root, this does."""

    def __init__(self, folder: Path):
        self.folder = folder

    def remount(self, mode: str) -> bool:
        """Whether it is now as ``mode`` says: not while a file in it is being written."""
        command = ["mount", "-o", f"remount,{mode}", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "jointsampler-test", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
    yield Disk(folder)
    # Lazily: a process that is still ending may have its working directory there.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("jointsampler: ")]


@pytest.mark.parametrize("what", ["--out", "run.storage"])
@pytest.mark.parametrize("below", ["", "new/folder"])
def test_a_read_only_place_is_refused_before_anything_starts(
    head: Head, disk: Disk, tmp_path: Path, what: str, below: str
):
    place = disk.folder / below
    assert disk.remount("ro")
    log = tmp_path / "log"
    log.mkdir()
    out, storage = (place, []) if what == "--out" else (log, [f"run.storage={place}"])
    driver = start(head, "pipeline", out, *storage, log=log)
    assert driver.wait(120 * PATIENCE) == 2
    told = (log / "pipeline.log").read_text()
    assert errors(told) == [
        f"jointsampler: {what} {place} is not a writable folder: Read-only file system."
    ]
    assert "ray:" not in told  # no cluster was started for it
    assert [path.name for path in log.iterdir()] == ["pipeline.log"]


def test_a_disk_that_turns_read_only_in_the_middle_of_a_corpus_keeps_what_is_complete(
    head: Head, disk: Disk, tmp_path: Path
):
    clean, out = tmp_path / "clean", tmp_path / "out"
    finish(start(head, "corpus", clean, *CORPUS), clean, "corpus")
    command = (head, "corpus", out, *CORPUS, f"run.storage={disk.folder}")
    driver = start(*command)
    shards = disk.folder / "corpus"
    wait_until(lambda: len(list(shards.glob("*.parquet"))) >= 3, 120, "three shards appear")
    wait_until(lambda: disk.remount("ro"), 60, "nobody writes")
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert len(before) < 12
    assert driver.wait(180 * PATIENCE) == 2
    told = (out / "corpus.log").read_text()
    (error,) = errors(told)
    assert "Read-only file system. What is complete stays; run again once there is room" in error
    assert told.rstrip().endswith(error), "the sentence is the last word"
    assert disk.remount("rw")
    log = finish(start(*command), out, "corpus")
    assert f"in 12 shards, {len(before)} of them from an earlier run" in log
    assert {name: (shards / name).stat().st_mtime_ns for name in before} == before
    assert verify_corpus(shards)[0].shards == verify_corpus(clean / "corpus")[0].shards


def test_a_disk_that_turns_read_only_while_training_keeps_the_last_checkpoint(
    head: Head, disk: Disk, tmp_path: Path
):
    out = tmp_path / "out"
    command = [
        "train.steps=400", "train.save_every=20", "train.validate_every=200", "train.workers=1",
        "train.max_failures=0", "corpus.actors=1", f"run.storage={disk.folder}",
    ]  # fmt: skip
    finish(start(head, "corpus", out, *command), out, "corpus")
    driver = start(head, "train", out, *command)
    # The third checkpoint is there, so the second has been counted.
    wait_until(lambda: list(disk.folder.glob("train/*/step_000060")), 120, "three checkpoints")
    wait_until(lambda: disk.remount("ro"), 60, "nobody writes")
    assert driver.wait(180 * PATIENCE) == 2
    (error,) = errors((out / "train.log").read_text())
    assert "Read-only file system" in error and str(disk.folder) in error
    assert disk.remount("rw")
    log = finish(start(head, "train", out, *command), out, "train")
    assert "train: going on from step" in log
    assert (out / "sampler" / "model.safetensors").is_file()
