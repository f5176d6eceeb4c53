"""Every family, loaded from its published layout, computes what an independent float64 pass computes.

And samplers train on it and decode with it. Reruns of columns are in ``test_columns.py``,
refusals in ``test_loading.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jointsampler import (
    JointSampler,
    Teacher,
    Trajectories,
    UserError,
    block_kl,
    generate,
    load_teacher,
)
from jointsampler.distill import DistillSettings, TeacherStates, distill_step, draw_batch
from tests.support import checkpoints, masked_lms, reference

FAMILIES = {
    "dream": (checkpoints.write_dream, reference.decoder, True),
    "llada": (checkpoints.write_llada, reference.llada, False),
    "llada_moe": (checkpoints.write_llada_moe, reference.decoder, False),
    "mdlm": (checkpoints.write_mdlm, reference.mdlm, False),
    "a2d-qwen3": (lambda f: checkpoints.write_a2d(f, "qwen3"), reference.decoder, False),
    "a2d-qwen2": (lambda f: checkpoints.write_a2d(f, "qwen2"), reference.decoder, False),
    "masked_lm": (checkpoints.write_bert, reference.bert, False),
}


def options(folder: Path) -> dict:
    """MDLM's tokenizer is in a folder of its own."""
    beside = folder.with_name(folder.name + "-gpt2")
    return {"tokenizer": str(beside)} if beside.exists() else {}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: (root / name, write(root / name)) for name, (write, _, _) in FAMILIES.items()}


def expected(name: str, folder: Path, weights, ids: list[int]) -> np.ndarray:
    _, forward, shifted = FAMILIES[name]
    logits = forward(weights, json.loads((folder / "config.json").read_text()), ids)
    return np.concatenate([logits[:1], logits[:-1]]) if shifted else logits


@pytest.mark.parametrize("name", FAMILIES)
def test_states_of_a_reading_teacher_also_hold_an_inner_layer_and_give_the_same_logits(made, name):
    """After the final states comes an inner layer's output, and decoding works with both."""
    folder, _ = made[name]
    teacher = load_teacher(str(folder), device="cpu", **options(folder))
    ids = torch.tensor([[teacher.pad_id, 3, teacher.mask_id, 7, 9], [4, 5, teacher.mask_id, 7, 9]])
    real = torch.tensor([[False, True, True, True, True], [True] * 5])
    assert teacher.layers == 2
    reading, size = teacher.reading((1,)), teacher.hidden_size
    plain, states = teacher.hidden(ids, real), reading.hidden(ids, real)
    assert states.shape == (2, 5, 2 * size)
    assert torch.equal(states[..., :size], plain)
    assert torch.equal(reading.logits(states), teacher.logits(plain))
    inner = states[..., size:]
    assert not torch.allclose(inner, plain, atol=1e-2)
    # A masked position's inner state depends on its neighbours, unlike an embedding.
    other = ids.clone()
    other[:, 3] = 8
    moved = (reading.hidden(other, real)[..., size:] - inner).abs().amax(-1)
    assert (moved[:, 2] > 0).all()
    sampler = JointSampler.for_teacher(teacher, depth=1)
    out = generate(teacher, sampler, method="joint", k=2, max_new_tokens=4, num_samples=2)
    assert out.responses.shape == (2, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_the_independent_computation_padded_or_not(made, name):
    folder, weights = made[name]
    teacher = load_teacher(str(folder), device="cpu", **options(folder))
    assert isinstance(teacher, Teacher) and teacher.family == name.split("-")[0]
    draw = torch.Generator().manual_seed(7)
    rows = [torch.randint(0, 40, (n,), generator=draw).tolist() for n in (9, 5, 9)]
    rows[0][3:6] = [teacher.mask_id] * 3
    allowed = np.setdiff1d(np.arange(teacher.vocab_size), teacher.forbidden_ids.numpy())
    ids = torch.full((3, 9), teacher.pad_id)
    real = torch.zeros(3, 9, dtype=torch.bool)
    for at, row in enumerate(rows):
        ids[at, 9 - len(row) :] = torch.tensor(row)
        real[at, 9 - len(row) :] = True
    padded = teacher.logits(teacher.hidden(ids, real))
    for at, row in enumerate(rows):
        want = expected(name, folder, weights, row)[:, allowed]
        alone = teacher.logits(teacher.hidden(torch.tensor([row])))[0]
        got = padded[at, 9 - len(row) :]
        assert np.abs(alone[:, allowed].numpy() - want).max() <= 1e-5
        assert np.abs(got[:, allowed].numpy() - want).max() <= 1e-5
        assert torch.isinf(got[:, teacher.forbidden_ids]).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_described_teacher_equals_the_loaded_one_apart_from_weights(made, name):
    folder, _ = made[name]
    real = load_teacher(str(folder), device="cpu", **options(folder))
    plan = load_teacher(str(folder), device="meta", **options(folder))
    for field in ("fingerprint", "mask_id", "bos_id", "eos_id", "end_ids", "pad_id", "max_length"):
        assert getattr(plan, field) == getattr(real, field)
    assert torch.equal(plan.forbidden_ids, real.forbidden_ids)
    assert plan.layer_shape(plan.hidden_size) == real.layer_shape(real.hidden_size)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sampler_trains_on_it_and_ragged_prompts_decode_as_one_at_a_time(made, name):
    folder, _ = made[name]
    teacher = load_teacher(str(folder), device="cpu", **options(folder))
    sampler = JointSampler.for_teacher(teacher, seed=1)
    torch.nn.init.normal_(sampler.project.weight, std=0.05)
    prompts = ["the quick", "x", "def main the fox a"]
    settings = dict(method="joint", k=3, max_new_tokens=8, seed=3)
    together = generate(teacher, sampler, prompts=prompts, **settings)
    for row, prompt in enumerate(prompts):
        alone = generate(teacher, sampler, prompts=[prompt], row_ids=[row], **settings)
        assert torch.equal(alone.responses[0], together.responses[row])
        assert torch.equal(alone.order[0], together.order[row])
    assert not torch.isin(together.responses, teacher.forbidden_ids).any()


def test_dream_takes_each_special_id_from_where_it_is_right(tmp_path):
    checkpoints.write_dream(tmp_path, pad="<|dlm_pad|>")  # as DiffuCoder
    teacher = load_teacher(str(tmp_path), device="cpu")
    token = teacher.tokenizer.convert_tokens_to_ids
    assert teacher.mask_id == token("<|mask|>")
    assert teacher.bos_id == token("<|beginoftext|>")  # config.json repeats eos here
    assert teacher.pad_id == token("<|dlm_pad|>")
    assert teacher.eos_id == token("<|endoftext|>")
    assert teacher.end_ids == (token("<|endoftext|>"), token("<|im_end|>"))
    assert teacher.generation_defaults == {"temperature": 0.0, "order": "random"}
    beyond = range(len(teacher.tokenizer), teacher.vocab_size)
    assert set(beyond) <= set(teacher.forbidden_ids.tolist()) and len(beyond) == 10
    text = "def main(args):\n    return args + 1\n"
    ids = teacher.tokenizer.encode(text, add_special_tokens=False)
    assert teacher.tokenizer.decode(ids) == text


def test_a_chat_goes_through_the_template_and_ends_at_the_end_of_turn(tmp_path):
    checkpoints.write_dream(tmp_path)
    teacher = load_teacher(str(tmp_path), device="cpu")
    chats = [[{"role": "user", "content": text}] for text in ("hello", "the quick brown fox")]
    out = generate(teacher, prompts=chats, method="marginal", k=2, max_new_tokens=6, seed=1)
    said = teacher.tokenizer.decode(out.prompts[0])
    assert said == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    alone = generate(
        teacher, prompts=chats[1:], method="marginal", k=2, max_new_tokens=6, seed=1, row_ids=[1]
    )
    assert torch.equal(alone.responses[0], out.responses[1])
    ends = torch.isin(out.responses, torch.tensor(teacher.end_ids))
    first = torch.where(ends.any(1), ends.int().argmax(1), 6)
    assert torch.equal(out.effective_tokens, first)


def test_a_chat_without_a_template_is_refused(tiny):
    with pytest.raises(UserError, match="no chat template"):
        generate(tiny, prompts=[[{"role": "user", "content": "x"}]], method="marginal")


@pytest.mark.parametrize("kind", masked_lms.KINDS)
def test_any_masked_lm_computes_what_its_own_class_computes(tmp_path, kind):
    """The teacher separates the class's encoder and head; together they give the class's logits."""
    model = masked_lms.write(tmp_path, kind)
    teacher = load_teacher(str(tmp_path), device="cpu")
    ids = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    ids[0, 2] = teacher.mask_id
    want = model(input_ids=ids).logits.detach()
    want[..., teacher.forbidden_ids] = -torch.inf
    assert torch.allclose(teacher.logits(teacher.hidden(ids)), want, atol=1e-5)
    assert teacher.embed(ids).shape == (2, 7, 32)
    padded = torch.cat([torch.full((2, 3), teacher.pad_id), ids], dim=1)
    real = torch.arange(10)[None].expand(2, -1) >= 3
    got = teacher.logits(teacher.hidden(padded, real))[:, 3:]
    assert torch.allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("name", ["dream", "mdlm", "masked_lm"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_bfloat16_teacher_works_with_a_float32_sampler(made, name, depth):
    """The default on a GPU: the teacher's parts get the sampler's float32 states on every path."""
    folder, _ = made[name]
    teacher = load_teacher(str(folder), device="cpu", dtype="bfloat16", **options(folder))
    sampler = JointSampler.for_teacher(teacher, depth=depth, seed=1)
    for method in ("joint", "adaptive", "lossless", "threshold", "refresh"):
        update = None if method == "refresh" else sampler
        out = generate(teacher, update, ["x"], method=method, k=2, max_new_tokens=6)
        assert (out.order >= 0).all()
    truth = generate(teacher, None, method="sequential", num_samples=3, max_new_tokens=6)
    assert np.isfinite(block_kl(teacher, sampler, truth, k=2).marginal.value)
    rows = Trajectories.from_generation(truth, 0, teacher)
    settings = DistillSettings(k_max=3)
    batch = draw_batch(rows.reveals, depth > 0, settings, 4, seed=0, step=0)
    for cache_gib in (0.0, 1.0):
        states = TeacherStates(sampler.reading(teacher), rows, cache_gib)
        loss, _ = distill_step(states, sampler, batch, settings, 0)
        loss.backward()
        assert torch.isfinite(sampler.project.weight.grad).all()
        sampler.zero_grad()
