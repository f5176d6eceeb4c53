"""The embedded teacher and what a local checkpoint must be."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from jointsampler import Teacher, UserError, generate, load_teacher
from jointsampler.tasks import TASKS, TAUGHT, examples
from jointsampler.teachers.checkpoint import find_checkpoint
from jointsampler.teachers.load import check_teacher

TINY = find_checkpoint("tiny").folder


def test_the_embedded_teacher_fulfils_the_protocol(tiny):
    assert isinstance(tiny, Teacher)
    ids = torch.full((2, 5), tiny.mask_id)
    hidden = tiny.hidden(ids)
    assert hidden.shape == (2, 5, tiny.hidden_size)
    logits = tiny.logits(hidden)
    assert logits.shape == (2, 5, tiny.vocab_size) and logits.dtype == torch.float32
    assert torch.isinf(logits[..., tiny.forbidden_ids]).all()
    assert torch.isfinite(logits).sum() == 2 * 5 * (tiny.vocab_size - len(tiny.forbidden_ids))
    assert tiny.embed(ids).shape == (2, 5, tiny.hidden_size)


def test_the_embedded_teacher_ships_in_at_most_16_mb():
    assert sum(path.stat().st_size for path in TINY.iterdir()) <= 16e6


def test_its_card_states_recipe_corpus_and_held_out_loss():
    folder = TINY
    card = (folder / "README.md").read_text()
    recipe = json.loads((folder / "pretraining.json").read_text())
    assert recipe["corpus_sha256"] in card
    assert f"{recipe['log'][-1]['step']:,} steps" in card
    assert all(f"{loss:.3f}" in card for loss in recipe["log"][-1]["held_out"].values())


def test_it_has_learned_the_prompted_tasks(tiny):
    """The card's accuracies, and that they are its own: shuffle and copy measured again."""
    recipe = json.loads((TINY / "pretraining.json").read_text())
    assert set(recipe["task_accuracy"]) == set(TAUGHT)
    for name in ("copy", "shuffle"):
        prompts = [example.prompt for example in examples(TASKS[name], 77, 40)]
        out = generate(tiny, prompts=prompts, method="sequential", k=1, max_new_tokens=12)
        right = sum(TASKS[name].check(p, t) for p, t in zip(prompts, out.texts, strict=True)) / 40
        assert right == pytest.approx(recipe["task_accuracy"][name], abs=0.25)
        assert right > 0.5


def test_it_has_learned_its_held_out_files(tiny):
    """Better than a unigram model by nats where most of the context is visible."""
    log = json.loads((TINY / "pretraining.json").read_text())["log"]
    assert log[-1]["held_out"]["0.1"] < 3.5 < log[0]["held_out"]["0.1"]


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(TINY, tmp_path / "teacher")


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def test_a_local_copy_is_the_same_teacher(tiny, copy):
    other = load_teacher(str(copy), device="cpu")
    assert other.fingerprint == tiny.fingerprint
    ids = torch.full((1, 6), tiny.mask_id)
    assert torch.equal(tiny.hidden(ids), other.hidden(ids))


def test_changed_weights_change_the_fingerprint(tiny, copy):
    path = copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert load_teacher(str(copy), device="cpu").fingerprint != tiny.fingerprint


def test_a_causal_checkpoint_is_refused(copy):
    edit(copy, is_causal=None)
    with pytest.raises(UserError, match=r"it is a causal language model \(LlamaForCausalLM\)"):
        load_teacher(str(copy))


def test_a_checkpoint_without_a_mask_id_is_refused(copy):
    edit(copy, mask_token_id=None)
    path = copy / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("mask_token")
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="names no mask token"):
        load_teacher(str(copy))


def test_a_teacher_that_attends_causally_after_all_is_refused(tiny):
    config = tiny.model.config
    config.is_causal = True
    try:
        with pytest.raises(UserError, match="attends causally"):
            check_teacher(tiny)
    finally:
        config.is_causal = False


def test_truncated_weights_are_refused(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="Cannot load the weights"):
        load_teacher(str(copy))


def test_a_missing_tokenizer_and_a_missing_folder_are_refused(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_teacher(str(copy))
    with pytest.raises(UserError, match="neither an embedded one"):
        load_teacher("no/such/teacher")
