"""What is in a corpus: prompted rows, rows of the sampler itself, and nothing that depends on batches."""

from __future__ import annotations

import pytest
import torch
from jointsampler.distill.offline import TopTruth, anchors_of, top_of

from jointsampler import JointSampler, UserError, block_kl, generate, storage
from jointsampler.config.schema import changed, load_config
from jointsampler.corpus.manifest import targets_name
from jointsampler.corpus.parquet import decode
from jointsampler.distill import DistillSettings, OfflineStates, TeacherStates, distill_step
from workflows import corpus
from workflows.train import check_offline


def test_a_share_of_the_rows_is_prompted_whatever_the_number_of_rows():
    prompts = tuple(f"p{i}" for i in range(2000))
    some = corpus.thin_out(prompts, 0.25, seed=3)
    assert sum(prompt != "" for prompt in some) == pytest.approx(500, abs=60)
    assert all(prompt in ("", prompts[row]) for row, prompt in enumerate(some))
    assert corpus.thin_out(prompts[:10], 0.25, seed=3) == some[:10]
    assert corpus.thin_out(prompts, 1.0, seed=3) == prompts


def test_the_preset_of_the_shipped_sampler_plans(tmp_path):
    config = load_config("workflows/configs/tiny-sampler.yaml")
    plan = corpus.plan(config, tmp_path)
    empty = sum(prompt == "" for prompt in plan.prompts)
    assert plan.rows == len(plan.prompts) == config.corpus.rows + config.corpus.held_out
    assert empty == pytest.approx(0.65 * plan.rows, abs=200)


@pytest.fixture
def small(trained_like, tmp_path):
    """A plan of two shards of eight rows, half of the twelve training rows on-policy; and its sampler."""
    trained_like.save_pretrained(tmp_path / "sampler")
    overrides = [
        "corpus.rows=12", "corpus.held_out=4", "corpus.rows_per_file=8", "corpus.max_new_tokens=8",
        "corpus.on_policy=0.5", f"corpus.sampler={tmp_path / 'sampler'}",
    ]  # fmt: skip
    return corpus.plan(load_config(None, overrides), tmp_path / "out")


def rows_of(plan, batch=None):
    storage.make_folder(plan.folder)
    actor = corpus.TeacherActor(plan)
    actor.batch = batch or actor.batch
    names = [actor.make(index)[0].name for index in range(plan.shards)]
    return decode([(name, storage.read(plan.folder / name)) for name in names])


def test_on_policy_rows_are_the_samplers_and_held_out_rows_the_teachers(tiny, trained_like, small):
    rows = rows_of(small)
    own = [row for row in range(16) if small.is_on_policy(row)]
    assert rows.row_ids.tolist() == list(range(16))
    assert 2 <= len(own) <= 10 and max(own) < 12
    for row in range(16):
        method, k = ("joint", 8) if row in own else ("sequential", 1)
        alone = generate(
            tiny, trained_like, method=method, k=k, max_new_tokens=8, seed=0, row_ids=[row]
        )
        assert torch.equal(alone.responses[0], rows.tokens[row])
        assert torch.equal(alone.order[0], rows.order[row])
    assert block_kl(tiny, trained_like, rows.select(range(12, 16)), k=2).blocks == 16


def test_rows_do_not_depend_on_the_batch_that_fits(small):
    a = rows_of(small)
    b = rows_of(small, batch=3)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.order, b.order)


def test_on_policy_needs_a_sampler_of_this_teacher(tmp_path):
    with pytest.raises(UserError, match=r"corpus\.on_policy needs corpus\.sampler"):
        corpus.plan(load_config(None, ["corpus.on_policy=0.5"]), tmp_path)


def test_what_an_actor_cannot_make_names_its_rows(small, monkeypatch):
    actor = corpus.TeacherActor(small)
    monkeypatch.setattr(corpus, "generate", lambda *a, **k: 1 / 0)
    with pytest.raises(UserError, match=r"rows 8 to 15 \(part-00001\.parquet\).*division"):
        actor.make(1)


def offline(tmp_path, name, *more):
    overrides = [
        "corpus.rows=12", "corpus.held_out=4", "corpus.rows_per_file=8", "corpus.max_new_tokens=8",
        "corpus.anchors=3", "corpus.top=512", "train.k_max=4", "sampler.features=2", *more,
    ]  # fmt: skip
    return corpus.plan(load_config(None, overrides), tmp_path / name)


def kept(plan, tiny, top=None):
    """(rows, the targets kept while they were sampled)."""
    rows = rows_of(plan)
    files = [storage.read(plan.folder / targets_name(plan.name(i))) for i in range(plan.shards)]
    teacher = tiny.reading(plan.offline.read_layers)
    return rows, OfflineStates(teacher, rows, files)


@pytest.mark.parametrize("prompts", [(), ("corpus.prompts=tasks", "corpus.prompted=0.6")])
def test_offline_targets_give_the_online_loss_and_ask_the_teacher_nothing(
    tiny, tmp_path, monkeypatch, prompts
):
    plan = offline(tmp_path, "o", *prompts)
    rows, states = kept(plan, tiny)
    sampler = JointSampler.for_teacher(tiny, width=64, seed=3, features=2, k_max=4)
    with torch.no_grad():
        sampler.project.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(3))
    index, starts = torch.arange(16), torch.arange(16) % 7
    settings = DistillSettings(k_max=4)
    anchors = anchors_of(rows.row_ids, 8, plan.offline)[index, starts * 3 // 7]
    online = TeacherStates(tiny.reading(plan.offline.read_layers), rows)
    monkeypatch.setattr(states.teacher, "hidden", lambda *_: pytest.fail("asked the teacher"))
    _, a = distill_step(states, sampler, index, starts, settings, 0)
    with torch.autocast("cpu", torch.bfloat16):
        _, low = distill_step(states, sampler, index, starts, settings, 0)
    assert low["loss"].item() == pytest.approx(a["loss"].item(), rel=0.05)
    _, b = distill_step(online, sampler, index, anchors, settings, 0)
    for name in ("kl_d1", "kl_d2", "kl_d3", "loss"):
        assert a[name].item() == pytest.approx(b[name].item(), rel=0.04), name
        # The tail's own shape is what is lost, so the kept loss is never above the true one.
        assert a[name].item() <= b[name].item() * 1.01


def test_a_whole_vocabulary_kept_loses_nothing_but_rounding(tiny):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 12, generator=generator)
    law = torch.log_softmax(torch.randn(5, 12, generator=generator), dim=-1)
    full = torch.log_softmax(logits, dim=-1)
    direct = (full.exp() * (full - law)).sum(-1)
    log_p, log_q = TopTruth(*top_of(full, 11)).outcomes(tiny, law)
    assert torch.allclose((log_p.exp() * (log_p - log_q)).sum(-1), direct, atol=1e-5)


def test_training_that_asks_for_other_targets_is_refused(tmp_path):
    plan = offline(tmp_path, "o")
    other = load_config(
        None, ["corpus.anchors=3", "corpus.top=512", "train.near=3", "sampler.features=2"]
    )
    with pytest.raises(UserError, match="The corpus keeps targets for k_max=4, near=2"):
        check_offline(plan, other)
    with pytest.raises(UserError, match="set one of them to 0"):
        check_offline(plan, changed(other, {"train.near": 2, "train.k_max": 4, "train.hidden_weight": 1}))  # fmt: skip


def test_lost_targets_are_made_again(tmp_path):
    plan = offline(tmp_path, "o")
    corpus.claim(plan)
    rows_of(plan)
    assert set(corpus.found(plan)) == {0, 1}
    (plan.folder / targets_name(plan.name(1))).unlink()
    assert set(corpus.found(plan)) == {0}
