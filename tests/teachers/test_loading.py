"""Loading a checkpoint: what is refused and in which words, what it costs, where tokenizers come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jointsampler import UserError, load_teacher
from tests.support import checkpoints


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
    assert load_teacher(str(tmp_path), device="cpu", family="dream").shift == 1
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
    {"dream": checkpoints.write_dream, "llada": checkpoints.write_llada}[name](tmp_path)
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
    """A 0.4 GB checkpoint in bfloat16: resident memory, mapped files included, grows by at most 1.1 times the weights."""
    code = """
import re, sys, threading, time
import torch
from pathlib import Path
from jointsampler import load_teacher
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
load_teacher(sys.argv[2], device="cpu", dtype="bfloat16")  # so that the libraries are loaded
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
    """As in bert-base-uncased: a tokenizer.json, and a tokenizer_config.json that states none."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("write", [checkpoints.write_dream, checkpoints.write_llada])
def test_on_a_cpu_weights_in_their_own_dtype_stay_in_the_file_that_all_processes_share(
    tmp_path, write
):
    """Of processes that load one checkpoint, each then needs no copy of its own."""
    write(tmp_path)

    def outside(dtype: str) -> list[str]:
        teacher = load_teacher(str(tmp_path), device="cpu", dtype=dtype)
        lines = Path("/proc/self/maps").read_text().splitlines()
        files = [line.split()[0].split("-") for line in lines if str(tmp_path) in line]
        ranges = [range(*(int(bound, 16) for bound in pair)) for pair in files]
        return [
            name
            for name, p in teacher.model.named_parameters()
            if not any(p.data_ptr() in mapped for mapped in ranges)
        ]

    assert outside("float32") == []
    assert len(outside("bfloat16")) > 20  # converted
