"""Whatever is killed while the corpus is made, its rows are those of an undisturbed run, each once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jointsampler.corpus.manifest import read_manifest, verify_corpus
from tests.ray.jobs import finish, start
from tests.ray.nodes import Head, end, wait_until

pytestmark = pytest.mark.slow

# Long enough to be caught in the middle: two actors, eighteen shards of half a second.
CORPUS = [
    "corpus.rows=280", "corpus.held_out=8", "corpus.rows_per_file=16", "corpus.max_new_tokens=32",
    "corpus.actors=2",
]  # fmt: skip


def shards(out: Path) -> dict[str, int]:
    """Name -> time of writing, of what is complete."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "corpus").glob("*.parquet")}


def caught_in_the_middle(out: Path) -> dict[str, int]:
    made = wait_until(lambda: len(shards(out)) >= 3 and shards(out), 120, "three shards appear")
    assert len(made) < 18
    return made


@pytest.fixture(scope="module")
def clean(three_nodes: Head, tmp_path_factory) -> list:
    out = tmp_path_factory.mktemp("clean")
    process = start(three_nodes, "corpus", out, *CORPUS)
    nodes = wait_until(
        lambda: (
            len(shards(out)) >= 3 and {node.pid for _, node in three_nodes.workers("TeacherActor")}
        ),
        120,
        "teachers at work",
    )
    finish(process, out, "corpus")
    assert len(nodes) >= 2, "the teachers all ran on one node"
    return verify_corpus(out / "corpus")[0].shards


def test_a_killed_actor_costs_nothing_but_time(three_nodes: Head, clean, tmp_path):
    process = start(three_nodes, "corpus", tmp_path, *CORPUS)
    before = caught_in_the_middle(tmp_path)
    victim, _ = three_nodes.workers("TeacherActor")[0]
    victim.kill()
    finish(process, tmp_path, "corpus")
    after = shards(tmp_path)
    assert {name: after[name] for name in before} == before  # nothing complete was made again
    assert verify_corpus(tmp_path / "corpus")[0].shards == clean


def test_a_killed_driver_goes_on_where_it_was(three_nodes: Head, clean, tmp_path):
    process = start(three_nodes, "corpus", tmp_path, *CORPUS)
    caught_in_the_middle(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not three_nodes.workers("TeacherActor"), 60, "its actors end")
    before = shards(tmp_path)
    log = finish(start(three_nodes, "corpus", tmp_path, *CORPUS), tmp_path, "corpus")
    after = shards(tmp_path)
    assert {name: after[name] for name in before} == before
    assert f"288 rows, each once, in 18 shards, {len(before)} of them from an earlier run" in log
    assert read_manifest(tmp_path / "corpus").shards == clean


def test_damaged_and_missing_shards_are_made_again_and_no_others(
    three_nodes: Head, clean, tmp_path
):
    finish(start(three_nodes, "corpus", tmp_path, *CORPUS), tmp_path, "corpus")
    folder = tmp_path / "corpus"
    before = shards(tmp_path)
    (folder / "part-00003.parquet").write_bytes(b"noise")
    (folder / "part-00007.parquet").unlink()
    log = finish(start(three_nodes, "corpus", tmp_path, *CORPUS), tmp_path, "corpus")
    assert "part-00003.parquet is damaged and will be made again" in log
    after = shards(tmp_path)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"part-00003.parquet", "part-00007.parquet"}
    assert verify_corpus(folder)[0].shards == clean


def test_a_shard_that_cannot_be_written_is_told_in_one_sentence_and_nothing_is_lost(
    three_nodes: Head, clean, tmp_path
):
    in_the_way = tmp_path / "corpus" / "part-00009.parquet"
    in_the_way.mkdir(parents=True)
    process = start(three_nodes, "corpus", tmp_path, *CORPUS)
    assert process.wait(180) == 2
    log = (tmp_path / "corpus.log").read_text().splitlines()
    (told,) = [line for line in log if line.startswith("jointsampler: ")]
    assert told.startswith(
        "jointsampler: Corpus rows 144 to 159 (part-00009.parquet) could not be made"
    )
    in_the_way.rmdir()
    finish(start(three_nodes, "corpus", tmp_path, *CORPUS), tmp_path, "corpus")
    assert verify_corpus(tmp_path / "corpus")[0].shards == clean


def test_a_killed_raylet_costs_nothing_but_time(three_nodes: Head, clean, tmp_path):
    process = start(three_nodes, "corpus", tmp_path, *CORPUS)
    caught_in_the_middle(tmp_path)
    _, node = three_nodes.workers("TeacherActor")[0]
    os.killpg(node.pid, signal.SIGKILL)  # the raylet and what it runs
    end(node)
    finish(process, tmp_path, "corpus")
    assert verify_corpus(tmp_path / "corpus")[0].shards == clean
