"""Files appear complete or not at all, in a folder and in a bucket."""

from __future__ import annotations

import json
import os

import pytest

from jointsampler import Trajectories, UserError, storage
from jointsampler.cli import main
from jointsampler.config import load_config
from jointsampler.corpus.parquet import encode, read_parquet
from jointsampler.uris import shown
from workflows import corpus


def test_a_write_that_fails_leaves_the_old_file_and_nothing_partial(tmp_path, monkeypatch):
    storage.write(tmp_path / "x", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        storage.write(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_uri_keeps_its_query_last_and_shows_none_of_it():
    place = storage.join("s3://bucket/run?endpoint_override=host&access_key=secret", "a.parquet")
    assert place == "s3://bucket/run/a.parquet?endpoint_override=host&access_key=secret"
    assert shown(place) == "s3://bucket/run/a.parquet"


def test_an_error_shows_no_secret_of_the_location():
    with pytest.raises(UserError) as caught:
        storage.make_folder("swift://KEY:SECRET@x/y?token=SECRET")
    assert "SECRET" not in str(caught.value) and "swift://x/y" in str(caught.value)


def test_json_is_written_whole_and_read_back(tmp_path):
    storage.write_json(tmp_path / "x.json", {"a": [1, 2.5, None]})
    assert json.loads(storage.read(tmp_path / "x.json")) == {"a": [1, 2.5, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_an_unknown_kind_of_storage_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="Cannot use storage swift://x") as caught:
        storage.make_folder("swift://x/y")
    assert "\n" not in str(caught.value)


def test_a_bucket_holds_rows_as_a_folder_does(bucket, tiny, samples):
    rows = Trajectories.from_generation(samples, 5, tiny)
    folder = storage.join(bucket, "a")
    storage.make_folder(folder)
    assert storage.names(folder) == set()
    storage.write(storage.join(folder, "x.parquet"), encode(rows))
    assert storage.names(folder) == {"x.parquet"}
    back = read_parquet(folder, ["x.parquet"])
    assert back.tokens.tolist() == rows.tokens.tolist()
    with pytest.raises(UserError, match=r"s3://runs/a/y\.parquet is unreadable"):
        read_parquet(folder, ["y.parquet"])


def test_a_corpus_in_a_bucket_is_made_found_again_and_verified(bucket, tmp_path, capsys):
    overrides = [
        "corpus.rows=6", "corpus.held_out=2", "corpus.rows_per_file=4", "corpus.max_new_tokens=8",
        f"run.storage={storage.join(bucket, 'run')}",
    ]  # fmt: skip
    plan = corpus.plan(load_config(None, overrides), tmp_path)
    corpus.claim(plan)
    actor = corpus.TeacherActor(plan)
    made = {index: actor.make(index)[0] for index in range(2)}
    assert corpus.found(plan).shards == made
    corpus.finish(plan, made)
    assert plan.intact()
    assert main(["verify-corpus", str(plan.folder)]) == 0
    told = capsys.readouterr().out
    assert "s3://runs/run/corpus: 8 rows" in told and "endpoint" not in told
    storage.write(storage.join(plan.folder, plan.name(1)), b"noise")
    assert not plan.intact() and set(corpus.found(plan).shards) == {0}


def test_a_bucket_that_is_not_there_is_named(bucket):
    absent = bucket.replace("runs", "absent")
    with pytest.raises(UserError, match="Cannot use storage s3://absent/x") as caught:
        storage.make_folder(storage.join(absent, "x"))
    assert "\n" not in str(caught.value)
