"""A corpus is verified once, read once on a node, and what changed since is noticed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from jointsampler import Trajectories, UserError, generate, storage
from jointsampler.config import load_config
from jointsampler.corpus import verified
from jointsampler.corpus.manifest import read_manifest, read_rows, split_corpus
from jointsampler.corpus.parquet import encode
from workflows import corpus
from workflows.stage import require, run_once

SHARDS = [f"part-{index:05d}.parquet" for index in range(4)]


def planned(out: Path, *overrides: str) -> corpus.CorpusPlan:
    """Four shards with two rows each; the last one is held out."""
    sizes = ["rows=6", "held_out=2", "rows_per_file=2", "max_new_tokens=8"]
    return corpus.plan(load_config(None, [*(f"corpus.{s}" for s in sizes), *overrides]), out)


@pytest.fixture
def plan(tmp_path):
    return planned(tmp_path)


@pytest.fixture(scope="module")
def shards(tiny):
    """The bytes of each shard."""
    rows = generate(tiny, method="sequential", num_samples=8, max_new_tokens=8, seed=0)
    rows = Trajectories.from_generation(rows, 0, tiny)
    return [encode(rows.select(range(2 * i, 2 * i + 2))) for i in range(4)]


class Counting:
    """A file system that counts how often each file is opened for reading."""

    def __init__(self, system):
        self.system, self.reads = system, Counter()

    def __getattr__(self, name):
        return getattr(self.system, name)

    def open_input_stream(self, path):
        self.reads[Path(path).name] += 1
        return self.system.open_input_stream(path)

    def of_shards(self) -> dict[str, int]:
        """Reads of each shard since the last call."""
        found = {name: count for name, count in self.reads.items() if name.endswith(".parquet")}
        self.reads.clear()
        return found


@pytest.fixture
def counting(monkeypatch):
    opened, made = storage._open, Counting(None)

    def instead(location):
        made.system, path = opened(location)
        return made, path

    monkeypatch.setattr(storage, "_open", instead)
    return made


def write(plan, shards, indices) -> dict:
    corpus.claim(plan)
    for index in indices:
        storage.write(storage.join(plan.folder, plan.name(index)), shards[index])
    ids = {index: plan.row_ids(index) for index in indices}
    return {i: corpus.describe(plan.name(i), shards[i], ids[i]) for i in indices}


def finished(plan, shards) -> None:
    corpus.finish(plan, write(plan, shards, range(4)))


def test_a_new_corpus_is_read_once_and_by_later_stages_for_their_rows_alone(plan, shards, counting):
    run_once(plan, lambda: finished(plan, shards) or {})
    assert counting.of_shards() == dict.fromkeys(SHARDS, 1)
    for _ in range(3):  # train, evaluate, and the corpus stage again
        require(plan)
    assert len(corpus.found(plan).shards) == 4
    assert counting.of_shards() == {}
    split_corpus(plan.folder, verify=False)  # a training worker
    assert counting.of_shards() == dict.fromkeys(SHARDS, 1)
    read_rows(plan.folder, "held_out")
    assert counting.of_shards() == {SHARDS[3]: 1}


def test_a_corpus_that_was_cut_off_is_read_once_too(plan, shards, counting):
    write(plan, shards, [0, 2])
    earlier = corpus.found(plan)
    assert sorted(earlier.shards) == [0, 2]
    corpus.finish(plan, earlier.shards | write(plan, shards, [1, 3]), earlier.stamps)
    assert counting.of_shards() == dict.fromkeys(SHARDS, 1)
    assert plan.intact() and counting.of_shards() == {}


def test_a_shard_that_changed_is_verified_again_and_no_other(plan, shards, counting):
    finished(plan, shards)
    place = plan.folder / SHARDS[1]
    noise = bytes(len(shards[1]))
    counting.of_shards()
    place.write_bytes(noise)
    assert not plan.intact() and counting.of_shards() == {SHARDS[1]: 1}
    place.write_bytes(shards[1])
    assert plan.intact() and counting.of_shards() == {SHARDS[1]: 1}
    assert plan.intact() and counting.of_shards() == {}


def test_a_shard_that_is_gone_is_noticed_and_one_too_many_is_refused(plan, shards, counting):
    finished(plan, shards)
    counting.of_shards()
    (plan.folder / SHARDS[2]).unlink()
    assert not plan.intact() and set(counting.of_shards()) <= {SHARDS[2]}
    assert sorted(corpus.found(plan).shards) == [0, 1, 3] and counting.of_shards() == {}
    (plan.folder / "part-9.parquet").write_bytes(shards[0])
    with pytest.raises(UserError, match=r"part-9\.parquet is not in the manifest"):
        finished(plan, shards)


def test_a_copy_is_verified_as_a_whole_and_then_trusted(plan, shards, counting, tmp_path):
    finished(plan, shards)
    shutil.copytree(plan.folder, tmp_path / "copy", copy_function=shutil.copyfile)
    counting.of_shards()
    copy, manifest = tmp_path / "copy", read_manifest(tmp_path / "copy")
    assert verified.verify_once(copy, manifest) == {}
    assert counting.of_shards() == dict.fromkeys(SHARDS, 1)
    assert verified.verify_once(copy, manifest) == {} and counting.of_shards() == {}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"manifest": 1, "shards": {}}', '{"manifest": "%s", "shards": 3}',
                '{"manifest": "%s", "shards": {"part-00000.parquet": 7}}']
)  # fmt: skip
def test_a_damaged_marker_counts_as_none(plan, shards, counting, content):
    finished(plan, shards)
    counting.of_shards()
    digest = read_manifest(plan.folder).digest
    (plan.folder / verified.NAME).write_text(content.replace("%s", digest))
    assert plan.intact() and counting.of_shards() == dict.fromkeys(SHARDS, 1)
    assert plan.intact() and counting.of_shards() == {}  # mended


def test_a_marker_of_another_manifest_counts_as_none(plan, shards, counting):
    finished(plan, shards)
    path = plan.folder / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": "renamed"}))
    counting.of_shards()
    assert plan.intact() and counting.of_shards() == dict.fromkeys(SHARDS, 1)


def test_a_corpus_that_may_only_be_read_is_verified_each_time(plan, shards, counting, caplog):
    finished(plan, shards)
    (plan.folder / verified.NAME).unlink()
    (plan.folder / verified.NAME).mkdir()  # nothing can be written in its place
    counting.of_shards()
    for _ in range(2):
        assert plan.intact() and counting.of_shards() == dict.fromkeys(SHARDS, 1)
    assert "the verification is not marked" in caplog.text


def test_a_flipped_bit_is_found_by_whoever_reads_it(plan, shards):
    """Also where size and time of the file are what they were."""
    finished(plan, shards)
    place = plan.folder / SHARDS[0]
    before = place.stat()
    column = pq.ParquetFile(place).metadata.row_group(0).column(2)  # the tokens
    data = bytearray(shards[0])
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    place.write_bytes(data)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert plan.intact()  # nobody has read it
    with pytest.raises(UserError, match=r"part-00000\.parquet is unreadable or truncated"):
        read_rows(plan.folder)


def test_files_are_read_at_the_same_time(plan, shards, counting):
    """Each of four reads waits until the other three have begun."""
    finished(plan, shards)
    together, opened = threading.Barrier(4, timeout=60), counting.open_input_stream

    def waiting(path):
        if path.endswith(".parquet"):
            together.wait()
        return opened(path)

    counting.open_input_stream = waiting
    assert len(read_rows(plan.folder)[1]) == 8


def test_workers_of_a_node_read_a_bucket_once(bucket, shards, counting, tmp_path, monkeypatch):
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path / "node"))
    plan = planned(tmp_path, f"run.storage={storage.join(bucket, 'once')}")
    finished(plan, shards)
    counting.of_shards()
    first = read_rows(plan.folder, "held_out")[1]
    assert counting.of_shards() == {SHARDS[3]: 2}  # from the bucket, and from the node's copy
    whole = [read_rows(plan.folder)[1] for _ in range(2)]
    assert counting.of_shards() == {SHARDS[3]: 2} | dict.fromkeys(SHARDS[:3], 3)
    assert torch.equal(whole[0].tokens, whole[1].tokens)
    assert torch.equal(whole[0].tokens[6:], first.tokens)
    (copy,) = (tmp_path / "node").rglob(SHARDS[1])
    copy.write_bytes(bytes(len(shards[1])))  # a copy that was damaged is not trusted
    assert torch.equal(read_rows(plan.folder)[1].tokens, whole[0].tokens)


def test_a_node_without_room_reads_the_bucket_itself(bucket, shards, tmp_path, monkeypatch, caplog):
    (tmp_path / "node").write_text("a file where the cache should be")
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path / "node"))
    plan = planned(tmp_path, f"run.storage={storage.join(bucket, 'full')}")
    finished(plan, shards)
    assert len(read_rows(plan.folder)[1]) == 8
    assert "are not kept on this node" in caplog.text


def test_a_copy_of_a_damaged_shard_is_refused(bucket, shards, tmp_path, monkeypatch):
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path / "node"))
    plan = planned(tmp_path, f"run.storage={storage.join(bucket, 'harm')}")
    finished(plan, shards)
    storage.write(storage.join(plan.folder, SHARDS[1]), bytes(len(shards[1])))
    with pytest.raises(UserError, match=r"part-00001\.parquet is not what was written"):
        read_rows(plan.folder)
