"""Every family, loaded from its published layout, computes what an independent float64 pass computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jointsampler import (
    JointSampler,
    Teacher,
    Trajectories,
    UserError,
    block_kl,
    generate,
    load_teacher,
)
from jointsampler.distill import DistillSettings, TeacherStates, distill_step, draw_states
from tests.support import checkpoints, reference

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
    """MDLM alone has its tokenizer elsewhere."""
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
def test_a_reading_teacher_carries_its_inner_layers_and_answers_as_before(made, name):
    """What it carries beside the final states is an inner layer's output; decoding works with it."""
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
    # A masked position's inner state moves with its neighbours: it is no mere embedding.
    other = ids.clone()
    other[:, 3] = 8
    moved = (reading.hidden(other, real)[..., size:] - inner).abs().amax(-1)
    assert (moved[:, 2] > 0).all()
    sampler = JointSampler.for_teacher(teacher, features=1)
    out = generate(teacher, sampler, method="joint", k=2, max_new_tokens=4, num_samples=2)
    assert out.responses.shape == (2, 4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_the_independent_computation_padded_or_not(made, name, attention):
    folder, weights = made[name]
    teacher = load_teacher(str(folder), device="cpu", attention=attention, **options(folder))
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
def test_a_plan_knows_all_but_the_weights(made, name):
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


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_family_says_whether_its_head_is_linear(made, name):
    """Which is what a sampler of low rank relies on: what a step adds does not depend on where from."""
    folder, _ = made[name]
    teacher = load_teacher(str(folder), device="cpu", **options(folder))
    a, b = torch.randn(2, 3, teacher.hidden_size, generator=torch.Generator().manual_seed(0))
    allowed = torch.ones(teacher.vocab_size, dtype=torch.bool)
    allowed[teacher.forbidden_ids] = False
    here, there = (
        (teacher.logits(x + a) - teacher.logits(x))[:, allowed] for x in (torch.zeros_like(b), b)
    )
    assert torch.allclose(here, there, atol=1e-4) == teacher.linear_head
    kwargs = dict(k_max=4, window=4, rank=2)
    if teacher.linear_head:
        assert JointSampler.for_teacher(teacher, **kwargs).directions(teacher).isfinite().all()
    else:
        with pytest.raises(UserError, match="LM head that is not linear"):
            JointSampler.for_teacher(teacher, **kwargs)


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


@pytest.mark.parametrize(
    "kind", ["roberta", "modernbert", "albert", "esm", "distilbert", "electra"]
)
def test_any_masked_lm_computes_what_its_own_class_computes(tmp_path, kind):
    """Head and embedding come apart from the class, and go together to the same logits."""
    from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

    width = {"hidden_size": 32} if kind != "distilbert" else {"dim": 32, "hidden_dim": 48}
    extra = {
        "albert": {"embedding_size": 16, "num_hidden_layers": 2},
        "electra": {"embedding_size": 16},
        "esm": {"position_embedding_type": "rotary", "mask_token_id": 4, "token_dropout": True},
        "modernbert": {
            "num_hidden_layers": 4,
            "sep_token_id": 3,
            "cls_token_id": 2,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    }.get(kind, {})
    tokenizer = checkpoints.byte_level(["<s>", "</s>", "<pad>", "<mask>"])
    size = tokenizer.get_vocab_size()
    pad = tokenizer.token_to_id("<pad>")
    if kind == "esm":
        extra["mask_token_id"] = tokenizer.token_to_id("<mask>")
    config = AutoConfig.for_model(
        kind,
        vocab_size=size,
        num_attention_heads=4,
        intermediate_size=48,
        pad_token_id=pad,
        max_position_embeddings=size + 64,
        **width,
        **({"num_hidden_layers": 2} | extra),
    )
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
    ).save_pretrained(tmp_path)
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


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}
    path.write_text(json.dumps(config))


def sentence(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_teacher(*args, device="cpu", **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_causal_lm_is_refused_by_name(tmp_path):
    checkpoints.write_dream(tmp_path)
    edit(tmp_path, model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    said = sentence(str(tmp_path))
    assert "it is a causal language model (Qwen2ForCausalLM)" in said and "is_causal" in said


def test_the_family_can_be_given_and_a_wrong_name_is_told(tmp_path):
    checkpoints.write_dream(tmp_path)
    edit(tmp_path, model_type="my-dream")
    assert "model_type 'my-dream'" in sentence(str(tmp_path))
    assert load_teacher(str(tmp_path), device="cpu", family="dream").shifted
    assert "did you mean 'dream'" in sentence(str(tmp_path), family="drema").lower()


def test_a_truncated_shard_a_missing_shard_and_a_missing_tensor_are_named(tmp_path):
    checkpoints.write_dream(tmp_path)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert "Cannot load the weights" in sentence(str(tmp_path))
    shard.unlink()
    assert shard.name in sentence(str(tmp_path))
    shard.write_bytes(whole)
    tensors = load_file(shard)
    gone = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != gone}, shard, metadata={"format": "pt"})
    assert gone in sentence(str(tmp_path))


def test_weights_left_over_or_of_another_shape_are_named(tmp_path):
    checkpoints.write_llada(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(
        tensors | {"model.transformer.extra": torch.zeros(2)}, path, metadata={"format": "pt"}
    )
    assert "not known to the model (model.transformer.extra)" in sentence(str(tmp_path))
    save_file(tensors, path, metadata={"format": "pt"})
    edit(tmp_path, mlp_hidden_size=64)
    assert "of another shape" in sentence(str(tmp_path))


@pytest.mark.parametrize("name", ["dream", "llada"])
def test_a_config_without_a_mask_id_is_refused(tmp_path, name):
    FAMILIES[name][0](tmp_path)
    edit(tmp_path, mask_token_id=None)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("mask_token", None)
    path.write_text(json.dumps(config))
    assert "names no mask token" in sentence(str(tmp_path))


def test_an_incomplete_config_and_an_unsupported_variant_are_refused(tmp_path):
    checkpoints.write_llada(tmp_path)
    edit(tmp_path, alibi=True)
    assert "alibi=True" in sentence(str(tmp_path))
    edit(tmp_path, alibi=False, n_heads=None)
    assert "has no 'n_heads'" in sentence(str(tmp_path))


def test_a_missing_tokenizer_is_refused_and_can_be_named(tmp_path):
    folder = tmp_path / "mdlm"
    checkpoints.write_mdlm(folder)
    (tmp_path / "none").mkdir()
    said = sentence(str(folder), tokenizer=str(tmp_path / "none"))
    assert "teacher.tokenizer" in said
    llada = tmp_path / "llada"
    checkpoints.write_llada(llada)
    (llada / "tokenizer.json").unlink()
    assert "needs its tokenizer" in sentence(str(llada))
    named = load_teacher(str(llada), device="cpu", tokenizer=str(tmp_path / "mdlm-gpt2"))
    assert named.tokenizer.eos_token == "<|endoftext|>"


def test_a_hub_id_without_network_is_one_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = sentence("Dream-org/Dream-v0-Instruct-7B")
    assert "'Dream-org/Dream-v0-Instruct-7B'" in said and "the hub did not give it" in said


def test_loading_needs_little_more_than_the_weights(tmp_path):
    """A 0.4 GB checkpoint in bfloat16: resident memory (mapped files included) grows by at most 1.1 times its weights."""
    code = """
import re, sys, threading, time
import torch
from pathlib import Path
from jointsampler import load_teacher
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
load_teacher(sys.argv[2], device="cpu", dtype="bfloat16")  # what the libraries keep, once
before, peak, done = resident(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident()); time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
teacher = load_teacher(sys.argv[1], device="cpu", dtype="bfloat16")
teacher.hidden(torch.full((1, 8), teacher.mask_id))  # touches every weight
done = True; thread.join()
weights = sum(p.numel() * p.element_size() for p in teacher.model.parameters())
print((max(peak, resident()) - before) / weights, weights)
"""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small, large = tmp_path / "small", tmp_path / "large"
    for folder, width in ((small, 32), (large, 1280)):
        checkpoints.write_dream(folder)
        vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
        edit(folder, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=8)
        for path in folder.glob("model*"):
            path.unlink()
        config = Qwen2Config(
            vocab_size=vocab,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=8,
            num_attention_heads=checkpoints.HEADS,
            num_key_value_heads=checkpoints.KV,
        )
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    result = subprocess.run(
        [sys.executable, "-c", code, str(large), str(small)],
        capture_output=True,
        text=True,
        check=True,
    )
    ratio, size = (float(x) for x in result.stdout.split()[-2:])
    assert size > 0.3e9
    print(f"peak over weights: {ratio:.3f}")
    assert ratio <= 1.1


def test_quantised_weights_load_behind_the_extra(tmp_path):
    pytest.importorskip("torchao")
    checkpoints.write_llada(tmp_path)
    full = load_teacher(str(tmp_path), device="cpu", dtype="bfloat16")
    small = load_teacher(str(tmp_path), device="cpu", dtype="bfloat16", quantization="int8")
    ids = torch.arange(8)[None]
    a, b = (t.logits(t.hidden(ids)).softmax(-1) for t in (full, small))
    assert 0 < (a - b).abs().sum(-1).max() < 0.2


def test_a_tokenizer_json_that_names_no_special_tokens_gets_those_of_its_class(tmp_path):
    """As bert-base-uncased: tokenizer.json, and a tokenizer_config.json with nothing in it."""
    from transformers import AutoTokenizer

    checkpoints.write_bert(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    teacher = load_teacher(str(tmp_path), device="cpu")
    assert (teacher.pad_id, teacher.bos_id, teacher.eos_id, teacher.mask_id) == (0, 2, 3, 4)


def test_a_tokenizer_without_an_end_is_no_gpt2(tmp_path):
    folder = tmp_path / "mdlm"
    checkpoints.write_mdlm(folder)
    other = tmp_path / "other"
    other.mkdir()
    checkpoints.byte_level([]).save(str(other / "tokenizer.json"))
    (other / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert "names no eos_token" in sentence(str(folder), tokenizer=str(other))


@pytest.mark.parametrize("kind", ["gpt2", "cohere"])
def test_a_stock_class_with_more_than_a_linear_head_is_refused(tmp_path, kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = checkpoints.byte_level(["<mask>"])
    size = {"vocab_size": tokenizer.get_vocab_size()}
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2} if kind == "gpt2" else {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 32, "logit_scale": 0.5,
    }  # fmt: skip
    config = AutoConfig.for_model(
        kind, **size, **shape, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    edit(tmp_path, is_causal=False, mask_token_id=tokenizer.token_to_id("<mask>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert "more than a body and a linear head" in sentence(str(tmp_path))


def test_a_wrong_family_or_device_is_one_sentence(tmp_path):
    checkpoints.write_dream(tmp_path)
    for family in ("stock", "masked_lm"):
        assert "no stock transformers class" in sentence(str(tmp_path), family=family)
    with pytest.raises(UserError, match="No device 'gpu'"):
        load_teacher("tiny", device="gpu")


@pytest.mark.parametrize("name", ["dream", "mdlm", "masked_lm"])
def test_a_bfloat16_teacher_works_with_a_float32_sampler(made, name):
    """What a GPU has by default: every path that hands the sampler's states to the teacher's head."""
    folder, _ = made[name]
    teacher = load_teacher(str(folder), device="cpu", dtype="bfloat16", **options(folder))
    sampler = JointSampler.for_teacher(teacher, seed=1)
    for method in ("joint", "adaptive", "lossless", "klass"):
        out = generate(teacher, sampler, ["x"], method=method, k=2, max_new_tokens=6)
        assert (out.order >= 0).all()
    truth = generate(teacher, None, method="sequential", num_samples=3, max_new_tokens=6)
    assert np.isfinite(block_kl(teacher, sampler, truth, k=2).marginal.value)
    rows = Trajectories.from_generation(truth, 0, teacher)
    index, starts = draw_states(3, 6, 4, seed=0, step=0)
    loss, _ = distill_step(
        TeacherStates(teacher, rows), sampler, index, starts, DistillSettings(k_max=3), 0
    )
    loss.backward()
    assert torch.isfinite(sampler.project.weight.grad).all()
