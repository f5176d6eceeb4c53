"""A corpus holds sequential samples of the teacher, and nothing in it depends on batches."""

from __future__ import annotations

import pytest
import torch

from jointsampler import UserError, generate, storage
from jointsampler.config import load_config
from jointsampler.corpus import sample
from jointsampler.corpus.parquet import decode
from workflows import corpus


@pytest.fixture
def small(tmp_path):
    """A plan of two shards of eight rows."""
    return made(tmp_path, "corpus.max_new_tokens=8")


def made(tmp_path, *overrides):
    sizes = ["corpus.rows=12", "corpus.held_out=4", "corpus.rows_per_file=8"]
    return corpus.plan(load_config(None, [*sizes, *overrides]), tmp_path / "out")


def rows_of(plan, batch=None):
    """All rows, through the actor and the files."""
    corpus.prepare(plan)
    actor = corpus.TeacherActor(plan)
    actor.sampler.batch_size = batch or actor.sampler.batch_size
    names = [actor.make(index)[0].name for index in range(plan.shards)]
    return decode([(name, storage.read(plan.folder / name)) for name in names])


def test_the_preset_of_the_shipped_sampler_plans(tmp_path):
    config = load_config("workflows/configs/tiny-sampler.yaml")
    plan = corpus.plan(config, tmp_path)
    corpus.prepare(plan)
    prompts = corpus.prompts_of(plan)
    empty = sum(prompt == "" for prompt in prompts)
    assert plan.rows == len(prompts) == config.corpus.rows + config.corpus.held_out
    assert empty == pytest.approx(0.65 * plan.rows, abs=200)


def test_a_row_of_the_corpus_is_the_sequential_sample_of_its_id(tiny, small):
    rows = rows_of(small)
    assert rows.row_ids.tolist() == list(range(16))
    for row in (0, 7, 8, 15):
        alone = generate(tiny, method="sequential", max_new_tokens=8, seed=0, row_ids=[row],
                         stop_at_end=True)  # fmt: skip
        assert torch.equal(alone.responses[0], rows.tokens[row])
        assert torch.equal(alone.order[0], rows.order[row])


def test_rows_do_not_depend_on_the_batch_that_fits(small):
    a = rows_of(small)
    b = rows_of(small, batch=3)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.order, b.order)


def test_a_plan_without_a_shard_leaves_the_next_plan_its_own_prompts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
        plan = made(tmp_path, f"corpus.prompts={tmp_path / name}.txt")
        corpus.prepare(plan)
        assert set(corpus.prompts_of(plan)) == {name}


def test_rows_stop_at_their_end(tmp_path):
    """Answers to the tasks have a few tokens; positions behind the end are not sampled."""
    plan = made(tmp_path, "corpus.prompts=tasks", "corpus.order=left_to_right")
    rows = rows_of(plan)
    assert rows.length == 32
    assert int(rows.reveals.sum()) < 0.6 * rows.tokens.numel()


def test_a_failed_shard_names_its_rows(small, monkeypatch):
    actor = corpus.TeacherActor(small)
    monkeypatch.setattr(sample, "generate", lambda *a, **k: 1 / 0)
    with pytest.raises(UserError, match=r"rows 8 to 15 \(part-00001\.parquet\).*division"):
        actor.make(1)


def test_an_actor_refuses_another_teacher_than_the_planned_one(small):
    import dataclasses

    with pytest.raises(
        UserError, match=r"on node .* and other where the run was planned: give all nodes"
    ):
        corpus.TeacherActor(dataclasses.replace(small, fingerprint="other"))
