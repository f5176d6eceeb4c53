"""Prompts come from files, or the built-in tasks, and damage is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jointsampler import UserError
from jointsampler.corpus.prompts import corpus_prompts, read_prompts, thin_out

PROMPTS = ["def main(", "import os\nimport ", "x = 1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "txt"])
def test_prompts_are_read_in_order_and_cycle(tmp_path, suffix):
    path = tmp_path / f"prompts.{suffix}"
    expected = PROMPTS
    if suffix == "jsonl":
        path.write_text(
            "".join(json.dumps({"prompt": p, "id": i}) + "\n" for i, p in enumerate(PROMPTS))
        )
    elif suffix == "parquet":
        pq.write_table(pa.table({"prompt": PROMPTS}), path)
    else:
        expected = ["def main(", "x = 1"]
        path.write_text("def main(\n\nx = 1\n")
    count = 2 * len(expected) + 1
    assert read_prompts(str(path), count, seed=0) == tuple(expected * 3)[:count]


def test_a_column_of_another_name_is_named_behind_the_source(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"query": p, "prompt": "no"}) + "\n" for p in PROMPTS))
    assert read_prompts(f"{path}:query", 3, seed=0) == tuple(PROMPTS)
    with pytest.raises(UserError, match="SOURCE:COLUMN names another"):
        read_prompts(f"{path}:question", 3, seed=0)


def test_a_share_of_the_rows_is_prompted_whatever_the_number_of_rows():
    prompts = tuple(f"p{i}" for i in range(2000))
    some = thin_out(prompts, 0.25, seed=3)
    assert sum(prompt != "" for prompt in some) == pytest.approx(500, abs=60)
    assert all(prompt in ("", prompts[row]) for row, prompt in enumerate(some))
    assert thin_out(prompts[:10], 0.25, seed=3) == some[:10]
    assert thin_out(prompts, 1.0, seed=3) == prompts
    assert thin_out(prompts, 0.25, seed=4) != some


def test_a_chat_needs_prompts_and_makes_them_the_users_turn():
    with pytest.raises(UserError, match=r"corpus\.chat=true needs prompts"):
        corpus_prompts(None, 3, seed=0, chat=True)
    (turn,) = corpus_prompts("tasks", 1, seed=0, chat=True)[0]
    assert turn["role"] == "user" and turn["content"] in read_prompts("tasks", 1, seed=0)


def test_the_tasks_take_turns():
    prompts = read_prompts("tasks", 20, seed=1)
    assert len(prompts) == 20 and len({p.split(":")[0].split(" ->")[0] for p in prompts}) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"text": "no prompt here"}\n', "Cannot read"), ("{broken\n", "Cannot read")],
)
def test_a_file_without_prompts_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(str(path), 3, seed=0)
    assert "\n" not in str(caught.value)
