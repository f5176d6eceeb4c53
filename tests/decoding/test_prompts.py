"""Prompts come from files, or the built-in tasks, and damage is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jointsampler import UserError
from workflows.corpus import read_prompts

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
