"""Prompts come from files, or the built-in tasks, and damage is named."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jointsampler import UserError
from jointsampler.corpus.prompts import (
    TEMPLATE,
    PromptSource,
    corpus_prompts,
    first_prompts,
    prompt_source,
    read_prompts,
    template_columns,
    thin_out,
)

PROMPTS = ["def main(", "import os\nimport ", "x = 1"]


def read(source: str, count: int, template: str = TEMPLATE) -> tuple[str, ...]:
    return read_prompts(PromptSource(source, template), count, seed=0)


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
    assert read(str(path), count) == tuple(expected * 3)[:count]
    first = first_prompts(PromptSource(str(path)), seed=0)
    assert first == tuple(expected)


def test_a_template_makes_the_prompt_of_any_columns(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps([{"query": p, "my style": "short", "prompt": "no"} for p in PROMPTS])
    )
    assert read(str(path), 3, "{query}") == tuple(PROMPTS)
    both = read(str(path), 1, "{{{my style}}} Q: {query}\nA:")
    assert both == ("{short} Q: def main(\nA:",)


def test_an_unknown_column_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"query": p, "type": "x"}) + "\n" for p in PROMPTS))
    source = PromptSource(str(path), "{qeury}")
    for use in (read_prompts, lambda *a: first_prompts(source, 0)):
        with pytest.raises(UserError, match=r"did you mean 'query'.*choose one of query, type"):
            use(source, 3, 0)


@pytest.mark.parametrize("template", ["no column", "{}", "{query", "{query!r}", "{query:>3}", ""])
def test_a_template_that_names_no_plain_column_is_refused(template):
    with pytest.raises(UserError, match=r"corpus\.prompt_template="):
        template_columns(template)


def test_the_first_rows_of_a_large_file_are_those_of_the_whole(tmp_path, monkeypatch):
    rows = [{"prompt": f"row {i} " + "x" * 50} for i in range(100)]
    monkeypatch.setattr("jointsampler.corpus.sources.LOCAL_HEAD", 1000)
    for name, text in {
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "b.json": json.dumps(rows, indent=1),
        "c.txt": "\n".join(row["prompt"] for row in rows),
    }.items():
        (tmp_path / name).write_text(text)
        first = first_prompts(PromptSource(str(tmp_path / name)), 0)
        assert 5 < len(first) < 20
        assert first == read(str(tmp_path / name), len(first))


def test_a_changed_file_is_another_source_and_a_revision_too(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a\n")
    before = PromptSource(str(path)).identity()
    assert before == PromptSource(str(path)).identity()
    path.write_text("b\n")
    assert before != PromptSource(str(path)).identity()
    assert PromptSource("a/b").identity() != PromptSource("a/b", revision="c").identity()


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
        prompt_source(None, TEMPLATE, None, chat=True)
    tasks = prompt_source("tasks", TEMPLATE, None, chat=True)
    (turn,) = corpus_prompts(tasks, 1, seed=0, chat=True)[0]
    assert turn["role"] == "user" and turn["content"] in read("tasks", 1)


def test_the_tasks_take_turns():
    prompts = read("tasks", 20)
    assert len(prompts) == 20 and len({p.split(":")[0].split(" ->")[0] for p in prompts}) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "no prompt here"}\n', "Unknown column"),
        ("{broken\n", "Cannot read"),
        ('"text"\n', "line 1 is no JSON object"),
        ('["a", "b"]', "entry 1 is no JSON object"),
        ('[{"prompt": "a"}, 2]', "entry 2 is no JSON object"),
        ('{"prompt": 3}\n', "a row without text"),
        ("", "holds no prompts"),
    ],
)
def test_a_file_without_prompts_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read(str(path), 3)
    assert "\n" not in str(caught.value)
    if content:  # a plan refuses it too
        with pytest.raises(UserError, match=message):
            first_prompts(PromptSource(str(path)), 0)


@pytest.mark.parametrize(("name", "text"), [("p.txt", "x = 1"), ("p.jsonl", '{"prompt": "x = 1"}')])
def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    assert first_prompts(PromptSource(str(path)), 0) == read(str(path), 1) == ("x = 1",)
