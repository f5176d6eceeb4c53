"""A corpus is whole or its damage is named."""

from __future__ import annotations

import json

import pytest
import torch

from jointsampler import Trajectories, UserError, storage
from jointsampler.cli import main
from jointsampler.corpus.manifest import (
    CorpusManifest,
    describe,
    read_rows,
    split_corpus,
    verify_corpus,
    write_manifest,
)
from jointsampler.corpus.parquet import encode


@pytest.fixture
def corpus(tiny, samples, tmp_path):
    """Three shards of four rows; the last two rows are held out."""
    rows = Trajectories.from_generation(samples, 5, tiny)
    shards = []
    for index in range(3):
        ids = range(4 * index, 4 * index + 4)
        data = encode(rows.select(ids))
        storage.write(tmp_path / f"part-{index}.parquet", data)
        shards.append(describe(f"part-{index}.parquet", data, ids))
    write_manifest(
        tmp_path,
        CorpusManifest(
            key="k", teacher="tiny", fingerprint=tiny.fingerprint, seed=5, rows=10, held_out=2,
            settings={"max_new_tokens": 16}, state_bytes=16 * tiny.hidden_size * 2, shards=shards,
        ),
    )  # fmt: skip
    return tmp_path


def test_a_whole_corpus_is_told_apart_into_training_and_held_out_rows(corpus, samples):
    training, held_out = split_corpus(corpus)
    assert training.row_ids.tolist() == list(range(10)) and held_out.row_ids.tolist() == [10, 11]
    assert torch.equal(training.tokens, samples.responses[:10])


def test_a_verified_corpus_is_read_without_its_sha256_and_in_parts(corpus, samples):
    (corpus / "part-0.parquet").unlink()  # rows 0 to 3, which the held-out part does not need
    manifest, held_out = read_rows(corpus, "held_out")
    assert held_out.row_ids.tolist() == [10, 11] and manifest.part("training") == range(10)
    assert torch.equal(held_out.tokens, samples.responses[10:])
    with pytest.raises(UserError, match=r"part-0\.parquet is unreadable"):
        read_rows(corpus)


def test_both_ways_of_splitting_give_the_same_rows(corpus):
    for a, b in zip(split_corpus(corpus), split_corpus(corpus, verify=False), strict=True):
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.row_ids, b.row_ids)


def test_it_costs_a_small_part_of_keeping_every_state(corpus):
    manifest, _ = verify_corpus(corpus)
    every_state = 12 * 16 * 16 * 192 * 2  # rows x steps x positions x hidden x bfloat16
    assert manifest.share_of_all_states == pytest.approx(manifest.bytes / every_state)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "part-1.parquet").unlink(), r"part-1\.parquet is missing"),
        (
            lambda f: (f / "part-2.parquet").write_bytes(b"PAR1"),
            r"part-2\.parquet is not what was written",
        ),
        (
            lambda f: (f / "part-9.parquet").write_bytes((f / "part-1.parquet").read_bytes()),
            r"part-9\.parquet is not in the manifest",
        ),
        (lambda f: (f / "corpus.json").unlink(), "the corpus is not finished"),
        (lambda f: (f / "corpus.json").write_text("{}"), "is damaged"),
    ],
)
def test_damage_is_named_with_what_to_do(corpus, harm, message, capsys):
    harm(corpus)
    assert main(["verify-corpus", str(corpus)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    with pytest.raises(UserError, match=message):
        verify_corpus(corpus)


def test_one_flipped_bit_is_found(corpus):
    path = corpus / "part-0.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"part-0\.parquet is not what was written"):
        verify_corpus(corpus)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", 12, "12 rows where 14 are due"),
        ("seed", 6, "its manifest says 6"),
        ("fingerprint", "another", "manifest says 5 and another"),
    ],
)
def test_a_manifest_of_other_rows_is_refused(corpus, field, value, message):
    path = corpus / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=message):
        verify_corpus(corpus)


def test_verify_corpus_prints_the_same_facts_for_people_and_machines(corpus, capsys):
    assert main(["verify-corpus", str(corpus), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["held_out"], facts["shards"]) == (10, 2, 3)
    assert main(["verify-corpus", str(corpus)]) == 0
    assert "12 rows (10 for training, 2 held out), each exactly once" in capsys.readouterr().out


def test_the_same_rows_give_the_same_bytes(tiny, samples):
    rows = Trajectories.from_generation(samples, 5, tiny)
    assert encode(rows) == encode(rows.select(range(12)))
