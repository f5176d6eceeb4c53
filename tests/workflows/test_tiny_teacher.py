"""The embedded teacher's recipe: reproducible batches, an honest split, the right objective."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from jointsampler import UserError
from jointsampler.config import load_config
from workflows.tiny_teacher.batches import Batch, SequenceSource
from workflows.tiny_teacher.model import build_tokenizer
from workflows.tiny_teacher.objective import corrupt, masked_loss
from workflows.tiny_teacher.recipe import RECIPES, Recipe
from workflows.tiny_teacher.texts import TEXTS, Paired
from workflows.tiny_teacher.texts.code import (
    HELD_OUT,
    corpus_fingerprint,
    read_source,
    split_files,
)
from workflows.tiny_teacher.texts.paired import LENGTH, LETTERS, NOISE, OFFSETS, complement
from workflows.tiny_teacher.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def source(tiny):
    train, _ = split_files()
    return SequenceSource(tiny.tokenizer, [read_source(path) for path in train[:8]], seed=0)


def test_held_out_files_exist_and_are_never_trained_on():
    train, held_out = split_files()
    assert {path.name for path in held_out} == HELD_OUT
    assert not HELD_OUT & {path.name for path in train}
    assert len(train) > 300
    assert not any("test" in path.parts for path in train)


def test_the_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    first = corpus_fingerprint([path])
    path.write_text("x = 2\n")
    assert corpus_fingerprint([path]) != first


def test_a_batch_is_a_pure_function_of_its_step(source):
    a, b = (source.batch(4, 640, 32, tasks=False) for _ in range(2))
    assert torch.equal(a.ids, b.ids) and torch.equal(a.t, b.t)
    assert a.ids.shape == (20, 32)


def test_a_step_splits_its_tokens_between_code_and_tasks(source):
    parts = source.step(1, 1000, lengths=[32, 50], task_lengths=[20, 40], task_share=0.4)
    assert [(weight, tuple(batch.ids.shape)) for weight, batch in parts] == [
        (0.6, (12, 50)),
        (0.4, (10, 40)),
    ]
    assert len(source.step(0, 1000, [32], [20], task_share=0.0)) == 1


def test_the_mean_is_taken_over_tokens_up_to_the_first_eos(source, tiny):
    batch = source.batch(0, 640, 64, tasks=True)
    answers = (batch.maskable & (batch.ids != tiny.eos_id)).sum().item()
    assert batch.counted == answers + len(batch.ids)  # and one eos each


def test_rows_open_with_bos_and_keep_it_and_prompts_unmasked(source, tiny):
    batch = source.batch(0, 64 * 64, 64, tasks=True)
    assert (batch.ids[:, 0] == tiny.bos_id).all() and not batch.maskable[:, 0].any()
    arrow = tiny.tokenizer.encode(" ->", add_special_tokens=False)[-1]
    for ids, maskable in zip(batch.ids.tolist(), batch.maskable, strict=True):
        end = ids.index(arrow)
        assert not maskable[: end + 1].any() and maskable[end + 1 :].all()


def test_mask_ratios_of_a_batch_cover_the_unit_interval(source):
    t = source.batch(1, 64 * 50, 64, tasks=False).t.sort().values
    assert ((t - torch.arange(50) / 50).abs() < 0.021).all()


def test_corruption_masks_what_it_may_at_the_rate_it_says(tiny):
    ids = torch.full((400, 50), 10)
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, :10] = False
    batch = Batch(ids, maskable, torch.full((400,), 0.3), counted=16_000)
    noisy, masked = corrupt(batch, tiny.mask_id, torch.Generator().manual_seed(0))
    assert not masked[:, :10].any()
    assert masked[:, 10:].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(noisy == tiny.mask_id, masked)


def test_the_objective_is_cross_entropy_weighted_by_one_over_t(tiny, source):
    batch = source.batch(2, 320, 32, tasks=True)
    generator = torch.Generator().manual_seed(5)
    noisy, masked = corrupt(batch, tiny.mask_id, torch.Generator().manual_seed(5))
    with torch.no_grad():
        loss, nats = masked_loss(tiny.model, batch, tiny.mask_id, generator)
        logits = tiny.model(input_ids=noisy).logits.double()
    total = 0.0
    for row in range(len(batch.ids)):
        each = F.cross_entropy(logits[row], batch.ids[row], reduction="none")
        total += (each * masked[row]).sum() / batch.t[row]
    assert loss.item() == pytest.approx((total / batch.counted).item(), rel=1e-4)
    plain = F.cross_entropy(logits[masked], batch.ids[masked])
    assert nats.item() == pytest.approx(plain.item(), rel=1e-4)


def test_a_tokenizer_gives_back_every_text():
    tokenizer = train_tokenizer(["def f(x):\n    return x\n" * 20], 300)
    for text in ("def f(x):\n\treturn 1234\n", "naïve — ünïcode ☃\n", "  \n\n   x"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer.encode("1234", add_special_tokens=False)) == 4  # digits stay apart


def test_paired_letters_are_complements_at_the_drawn_offset_but_for_the_noise():
    rng, paired, right, total = random.Random(0), Paired(), 0, 0
    for _ in range(200):
        line, offsets = paired.line(rng)
        letters = [LETTERS.index(letter) for letter in line]
        assert len(letters) == LENGTH
        for place, offset in enumerate(offsets):
            if offset:
                assert offset in OFFSETS
                right += letters[place] == complement(letters[place - offset])
                total += 1
    share = NOISE * (1 - 1 / len(LETTERS))  # a letter drawn uniformly may be the complement
    assert right / total == pytest.approx(1 - share, abs=0.01)
    assert all(complement(complement(letter)) == letter for letter in range(len(LETTERS)))


def test_a_row_of_paired_text_is_bos_and_one_whole_line(tmp_path):
    text, recipe = Paired(lines=40), load_config(RECIPES["paired"], (), Recipe)
    texts = text.training()
    assert texts == Paired(lines=40).training() and not set(texts) & set(text.held_out())
    tokenizer = build_tokenizer(recipe, texts, tmp_path)
    batch = SequenceSource(tokenizer, texts, seed=0).batch(0, 2048, recipe.lengths[0], tasks=False)
    lines = "".join(texts).split()
    for ids in batch.ids.tolist():
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) in lines


def test_every_recipe_names_a_text_and_paired_has_its_own_vocabulary(tmp_path):
    recipes = {name: load_config(path, (), Recipe) for name, path in RECIPES.items()}
    assert {name: recipe.text for name, recipe in recipes.items()} == {
        "paired": "paired",
        "tiny": "code",
    }
    assert {recipe.text for recipe in recipes.values()} == set(TEXTS)
    with pytest.raises(UserError, match="vocab_size=37"):
        TEXTS["paired"].tokenizer(40, [])
