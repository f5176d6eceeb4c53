"""The corpus row: what is written is what is read, and damage is named."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jointsampler import Trajectories, UserError, generate, storage
from jointsampler.corpus.parquet import SCHEMA, encode, read_parquet
from jointsampler.corpus.trajectories import Paths
from jointsampler.tasks import TASKS, examples


@pytest.fixture
def rows(tiny, samples):
    return Trajectories.from_generation(samples, 5, tiny)


def test_rows_survive_the_file_whatever_the_order_of_files(rows, tmp_path):
    storage.write(tmp_path / "a.parquet", encode(rows.select(range(8, 12))))
    storage.write(tmp_path / "b.parquet", encode(rows.select(range(8))))
    back = read_parquet(tmp_path, ["a.parquet", "b.parquet"])
    assert back.row_ids.tolist() == list(range(12))
    assert torch.equal(back.tokens, rows.tokens) and torch.equal(back.order, rows.order)
    assert (back.seed, back.teacher, back.prompts) == (5, rows.teacher, rows.prompts)
    assert not list(tmp_path.glob(".*"))  # nothing partial left behind


def test_a_state_is_what_the_teacher_saw(tiny, rows):
    paths = Paths.of(rows, tiny)
    for t in (0, 3, 16):
        state = paths.state(torch.full((12,), t))
        assert (state == tiny.mask_id).sum(1).tolist() == [16 - t] * 12
        for row in range(12):
            shown = rows.order[row, :t]
            assert torch.equal(state[row, 1 + shown], rows.tokens[row, shown])


def test_replaying_a_trajectory_reproduces_its_order(tiny, rows):
    """At x_t the teacher's lowest-entropy masked position is the recorded one."""
    from jointsampler.decoding.orders.entropy import entropy

    paths = Paths.of(rows, tiny)
    for t in (0, 5, 11):
        state = paths.state(torch.full((12,), t))
        scores = entropy(tiny.logits(tiny.hidden(state))[:, 1:])
        scores = scores.masked_fill(state[:, 1:] != tiny.mask_id, torch.inf)
        assert torch.equal(scores.argmin(1), rows.order[:, t])


def test_a_row_costs_about_ten_bytes_a_token_at_most(rows, tmp_path):
    storage.write(tmp_path / "a.parquet", encode(rows))
    raw = pq.read_metadata(tmp_path / "a.parquet").row_group(0).total_byte_size
    assert raw / rows.tokens.numel() < 10 + 2000 / rows.tokens.numel()


def test_only_sequential_generations_are_trajectories(tiny):
    out = generate(tiny, method="marginal", k=2, num_samples=2, max_new_tokens=8)
    with pytest.raises(UserError, match="one token per teacher pass"):
        Trajectories.from_generation(out, 0, tiny)


@pytest.fixture(scope="module")
def ended(tiny):
    """Samples of task prompts, which stop at their end token."""
    prompts = [example.prompt for example in examples(TASKS["copy"], 0, 2)]
    return generate(
        tiny, method="sequential", k=1, prompts=prompts, num_samples=4, max_new_tokens=24, seed=2,
        order="left_to_right",
        stop_at_end=True,
    )  # fmt: skip


def test_a_row_that_ends_early_has_fewer_reveals_and_its_tail_stays_masked(tiny, ended, tmp_path):
    rows = Trajectories.from_generation(ended, 2, tiny)
    assert int(rows.reveals.min()) < rows.length  # some row ended
    assert torch.equal(rows.reveals, ended.teacher_passes)
    assert torch.equal((rows.order >= 0).int().cumprod(1).sum(1), rows.reveals)  # -1s come last
    paths = Paths.of(rows, tiny)
    last = paths.state(torch.full((8,), rows.length))[:, paths.start :]
    assert torch.equal((last == tiny.mask_id).sum(1), rows.length - rows.reveals)
    for row, count in enumerate(rows.reveals.tolist()):
        revealed = rows.order[row, :count]
        assert torch.equal(paths.rank[row, revealed], torch.arange(count))
        assert torch.equal(last[row, revealed], rows.tokens[row, revealed])
    storage.write(tmp_path / "a.parquet", encode(rows))
    back = read_parquet(tmp_path, ["a.parquet"])
    assert torch.equal(back.order, rows.order) and torch.equal(back.tokens, rows.tokens)


def test_a_truncated_file_is_named(rows, tmp_path):
    path = tmp_path / "part.parquet"
    storage.write(path, encode(rows))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"part\.parquet is unreadable or truncated") as caught:
        read_parquet(path.parent, [path.name])
    assert "\n" not in str(caught.value)


def test_a_missing_file_another_schema_and_no_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="unreadable"):
        read_parquet(tmp_path, ["absent.parquet"])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="not written by the corpus stage"):
        read_parquet(tmp_path, ["x.parquet"])
    with pytest.raises(UserError, match="No corpus files"):
        read_parquet(tmp_path, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": [[0, 0]]}, "at most once"),
        ({"order": [[-1, 0]]}, "at most once"),
        ({"order": [[0, 2]]}, "at most once"),
        ({"order": [[0, -2]]}, "at most once"),
        ({"order": [[0]]}, "at most once"),
        ({"tokens": [[1, 2, 3]]}, "at most once"),
        ({"row_id": [0]}, "twice"),
        ({"seed": [9]}, "several values of 'seed'"),
        ({"teacher": ["b"]}, "several values of 'teacher'"),
    ],
)
def test_damaged_rows_are_refused(tmp_path, change, message):
    row = {"prompt": [[0]], "tokens": [[5, 6]], "order": [[1, 0]], "seed": [1], "teacher": ["a"]}
    first = {"row_id": [0], **row}
    second = {"row_id": [1], **row} | change
    for name, data in (("a", first), ("b", second)):
        pq.write_table(pa.table(data, schema=SCHEMA), tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=message):
        read_parquet(tmp_path, ["a.parquet", "b.parquet"])


def test_another_teachers_corpus_is_refused(tiny, rows):
    import dataclasses

    other = dataclasses.replace(rows, teacher="0123")
    with pytest.raises(UserError, match="sampled from another teacher"):
        other.check_teacher(tiny)
