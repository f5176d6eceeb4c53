"""A node that ends each of its processes is left out; an item that does so ends the stage; waits do not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jointsampler.corpus.manifest import verify_corpus
from tests.ray.jobs import ROOT, finish, start
from tests.ray.nodes import PATIENCE, Head, wait_until

pytestmark = pytest.mark.slow

CORPUS = [
    "corpus.rows=120", "corpus.held_out=8", "corpus.rows_per_file=8", "corpus.max_new_tokens=16",
    "corpus.actors=4", "run.heartbeat_s=2",
]  # fmt: skip


# On the path of a node's processes: the first shard ends its process, as a broken device may.
BROKEN = """
import importlib.abc, importlib.util, os, signal, sys

class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "jointsampler.corpus.sample":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def patched(module):
            run(module)
            module.RowSampler.shard = dies

        spec.loader.exec_module = patched
        return spec

def dies(*arguments):
    with open(os.environ["DEATHS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

sys.meta_path.insert(0, Hook())
"""


@pytest.fixture
def broken_node(tmp_path_factory) -> Iterator[tuple[Head, Path]]:
    """A head, a good node and a broken one; and the file of the processes that it ended."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "sitecustomize.py").write_text(BROKEN)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    with Head(cpus=0) as head:
        head.add_node(cpus=2, PYTHONPATH=path, DEATHS=str(folder / "deaths"))
        head.add_node(cpus=2)
        yield head, folder / "deaths"


def assert_second_is_refused(head: Head, out: Path) -> None:
    """A second submission to the folder of a run at work ends with one sentence."""
    log = out.with_name("second")  # beside OUT, because the first writes its log there
    log.mkdir()
    assert start(head, "corpus", out, *CORPUS, log=log).wait(120 * PATIENCE) == 2
    assert f"jointsampler: Another run works in {out}" in (log / "corpus.log").read_text()


def test_a_node_that_kills_each_of_its_actors_is_left_out_and_the_corpus_completes(
    broken_node: tuple[Head, Path], tmp_path: Path
):
    head, deaths = broken_node
    out = tmp_path / "out"
    process = start(head, "corpus", out, *CORPUS)
    wait_until((out / "lease.json").exists, 60, "the run holds its folder")
    assert_second_is_refused(head, out)
    log = finish(process, out, "corpus", 420)
    assert len(set(deaths.read_text().split())) >= 3
    assert log.count("is left out: 3 processes in a row ended there") == 1
    assert "corpus: 128 rows, each once, in 16 shards" in log
    verify_corpus(out / "corpus")
    beats = [line for line in log.splitlines() if line.startswith("corpus: actor ")]
    assert beats and all(" rows, " in line and " tokens/s, " in line for line in beats)


def small_stage(
    head: Head, mode: str, folder: Path, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tests.ray.small_stage", mode, str(folder)],
        cwd=ROOT, env=head.driver_environment | environment, capture_output=True, text=True,
        timeout=240 * PATIENCE, check=False,
    )  # fmt: skip


def test_a_node_whose_actors_fail_to_load_is_left_out(three_nodes: Head, tmp_path: Path):
    done = small_stage(three_nodes, "broken", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "is left out: 3 processes in a row" in done.stdout
    assert "The driver of this node is too old" in done.stdout
    assert done.stdout.splitlines()[-1] == str(list(range(8)))


@pytest.mark.parametrize("mode", ["poison", "error"])
def test_an_item_that_ends_every_process_ends_the_stage_and_is_named(
    three_nodes: Head, tmp_path: Path, mode: str
):
    done = small_stage(three_nodes, mode, tmp_path)
    assert done.returncode == 2, done.stdout[-3000:] + done.stderr[-3000:]
    assert "jointsampler: Stage small cannot do item 3" in done.stdout


def test_no_item_waits_behind_another_while_a_process_has_none(three_nodes: Head, tmp_path: Path):
    done = small_stage(three_nodes, "late", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "[0, 1]"


def test_a_stage_without_progress_for_longer_than_rays_limit_survives(
    three_nodes: Head, tmp_path: Path
):
    """Ray Data's limit of 30 minutes, shortened to 3 seconds; the item takes 8."""
    limit = {"RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "3"}
    unset = small_stage(three_nodes, "unset", tmp_path, **limit)
    assert unset.returncode == 1 and "made no progress for at least" in unset.stderr
    slow = small_stage(three_nodes, "slow", tmp_path, **limit)
    assert slow.returncode == 0, slow.stdout[-3000:] + slow.stderr[-3000:]
    assert slow.stdout.splitlines()[-1] == "[0]"
