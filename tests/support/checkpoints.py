"""Tiny random checkpoints in their published layout: the same files, keys and tensor names.

Each writer returns the tensors that it wrote, in float64, under the published
names. The decoders are here, MDLM and BERT in ``encoders.py``, masked LMs saved
by their stock classes in ``masked_lms.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.encoders import write_bert, write_mdlm
from tests.support.maker import (
    HEAD,
    HEADS,
    KV,
    LAYERS,
    MLP,
    WIDTH,
    Maker,
    Weights,
    byte_level,
    write_json,
)

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
__all__ = [
    "HEADS",
    "KV",
    "byte_level",
    "write_a2d",
    "write_bert",
    "write_dream",
    "write_llada",
    "write_llada_moe",
    "write_mdlm",
]


def _decoder_tensors(make: Maker, vocab: int, *, bias=False, head=HEAD, qk_norm=False, kv=KV):
    make.matrix("model.embed_tokens.weight", vocab, WIDTH)
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name, out in (("q", HEADS * head), ("k", kv * head), ("v", kv * head)):
            make.matrix(f"{at}self_attn.{name}_proj.weight", out, WIDTH)
            if bias:
                make.matrix(f"{at}self_attn.{name}_proj.bias", out)
        make.matrix(f"{at}self_attn.o_proj.weight", WIDTH, HEADS * head)
        if qk_norm:
            make.norm(f"{at}self_attn.q_norm.weight", head)
            make.norm(f"{at}self_attn.k_norm.weight", head)
        make.norm(f"{at}input_layernorm.weight", WIDTH)
        make.norm(f"{at}post_attention_layernorm.weight", WIDTH)
    make.norm("model.norm.weight", WIDTH)


def _dense_mlp(make: Maker) -> None:
    for i in range(LAYERS):
        for name, shape in (("gate", (MLP, WIDTH)), ("up", (MLP, WIDTH)), ("down", (WIDTH, MLP))):
            make.matrix(f"model.layers.{i}.mlp.{name}_proj.weight", *shape)


def write_dream(folder: Path, pad: str = "<|endoftext|>") -> Weights:
    """Dream-v0-Instruct: sharded, remote-code classes named, vocab.json + merges.txt alone."""
    make = Maker(folder)
    tokenizer = byte_level([])
    model = json.loads(tokenizer.to_str())["model"]
    words = len(model["vocab"])
    names = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|beginoftext|>",
        "<|mask|>",
        "<|dlm_pad|>",
    ]
    ids = {name: words + i for i, name in enumerate(names)}
    vocab = words + 16  # ids past the tokenizer, as in the original
    write_json(folder / "vocab.json", model["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    flags = {
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "DreamTokenizer",
            "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
            "added_tokens_decoder": {str(i): {"content": n, **flags} for n, i in ids.items()},
            "bos_token": "<|beginoftext|>",
            "eos_token": "<|endoftext|>",
            "mask_token": "<|mask|>",
            "pad_token": pad,
            "chat_template": CHAT,
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(
        folder / "config.json",
        {
            "architectures": ["DreamModel"],
            "attention_dropout": 0.0,
            "auto_map": {
                "AutoConfig": "configuration_dream.DreamConfig",
                "AutoModel": "modeling_dream.DreamModel",
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|endoftext|>"],
            "hidden_act": "silu",
            "hidden_size": WIDTH,
            "initializer_range": 0.02,
            "intermediate_size": MLP,
            "mask_token_id": ids["<|mask|>"],
            "max_position_embeddings": 512,
            "max_window_layers": LAYERS,
            "model_type": "Dream",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KV,
            "pad_token_id": ids["<|endoftext|>"],
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.46.2",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": vocab,
        },
    )
    write_json(
        folder / "generation_config.json",
        {"alg": "origin", "temperature": 0.0, "top_p": None, "steps": 512, "eps": 0.001},
    )
    _decoder_tensors(make, vocab, bias=True)
    _dense_mlp(make)
    make.matrix("lm_head.weight", vocab, WIDTH)
    return make.write(shards=3)


def write_llada(folder: Path) -> Weights:
    make = Maker(folder, seed=1)
    names = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>"]
    tokenizer = byte_level(names)
    ids = {name: tokenizer.token_to_id(name) for name in names}
    vocab = tokenizer.get_vocab_size() + 6
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
        },
    )
    write_json(
        folder / "config.json",
        {
            "activation_type": "silu",
            "alibi": False,
            "architectures": ["LLaDAModelLM"],
            "attention_layer_norm": False,
            "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
            "block_type": "llama",
            "d_model": WIDTH,
            "embedding_size": vocab,
            "eos_token_id": ids["<|endoftext|>"],
            "include_bias": False,
            "include_qkv_bias": False,
            "input_emb_norm": False,
            "layer_norm_type": "rms",
            "mask_token_id": ids["<|mdm_mask|>"],
            "max_sequence_length": 256,
            "mlp_hidden_size": MLP,
            "mlp_ratio": 4,
            "model_type": "llada",
            "n_heads": HEADS,
            "n_kv_heads": HEADS,
            "n_layers": LAYERS,
            "pad_token_id": ids["<|endoftext|>"],
            "rms_norm_eps": 1e-05,
            "rope": True,
            "rope_theta": 500000.0,
            "scale_logits": False,
            "vocab_size": vocab,
            "weight_tying": False,
        },
    )
    make.matrix("model.transformer.wte.weight", vocab, WIDTH)
    for i in range(LAYERS):
        at = f"model.transformer.blocks.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            make.matrix(f"{at}{name}.weight", WIDTH, WIDTH)
        make.matrix(f"{at}ff_proj.weight", MLP, WIDTH)
        make.matrix(f"{at}up_proj.weight", MLP, WIDTH)
        make.matrix(f"{at}ff_out.weight", WIDTH, MLP)
        make.norm(f"{at}attn_norm.weight", WIDTH)
        make.norm(f"{at}ff_norm.weight", WIDTH)
    make.norm("model.transformer.ln_f.weight", WIDTH)
    make.matrix("model.transformer.ff_out.weight", vocab, WIDTH)
    return make.write()


EXPERTS, AT_WORK, EXPERT_MLP = 4, 2, 16


def write_llada_moe(folder: Path) -> Weights:
    make = Maker(folder, seed=2)
    names = ["<|startoftext|>", "<|endoftext|>", "<|mask|>", "<|role_end|>"]
    tokenizer = byte_level(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size() + 3
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
    )
    write_json(
        folder / "config.json",
        {
            "architectures": ["LLaDAMoEModelLM"],
            "attention_bias": False,
            "auto_map": {"AutoModel": "modeling_lladamoe.LLaDAMoEModelLM"},
            "dense_intermediate_size": 128,
            "eos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "expert_intermediate_size": EXPERT_MLP,
            "hidden_act": "silu",
            "hidden_size": WIDTH,
            "mask_token_id": tokenizer.token_to_id("<|mask|>"),
            "max_position_embeddings": 256,
            "model_type": "lladamoe",
            "moe_layer_freq": [1] * LAYERS,
            "norm_topk_prob": None,
            "num_attention_heads": HEADS,
            "num_experts": EXPERTS,
            "num_experts_per_tok": AT_WORK,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": HEADS,
            "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "partial_rotary_factor": 1,
            "qk_layernorm": True,
            "rms_norm_eps": 1e-05,
            "rope_theta": 50000,
            "routed_scaling_factor": 1.0,
            "shared_expert_intermediate_size": None,
            "tie_word_embeddings": False,
            "vocab_size": vocab,
        },
    )
    _decoder_tensors(make, vocab, qk_norm=True, kv=HEADS)
    for i in range(LAYERS):
        make.matrix(f"model.layers.{i}.mlp.gate.weight", EXPERTS, WIDTH)
        for e in range(EXPERTS):
            at = f"model.layers.{i}.mlp.experts.{e}."
            make.matrix(f"{at}gate_proj.weight", EXPERT_MLP, WIDTH)
            make.matrix(f"{at}up_proj.weight", EXPERT_MLP, WIDTH)
            make.matrix(f"{at}down_proj.weight", WIDTH, EXPERT_MLP)
    make.matrix("lm_head.weight", vocab, WIDTH)
    return make.write()


def write_a2d(folder: Path, backbone: str) -> Weights:
    """dLLM's Qwen conversions: tied head, and for Qwen3 a head size of its own and normed heads."""
    make = Maker(folder, seed=3)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
    tokenizer = byte_level(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab = tokenizer.get_vocab_size() + 5
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "mask_token": "<|mask|>",
            "pad_token": "<|endoftext|>",
            "chat_template": CHAT,
        },
    )
    qwen3 = backbone == "qwen3"
    write_json(
        folder / "config.json",
        {
            "architectures": [f"A2D{backbone.capitalize()}LMHeadModel"],
            "attention_bias": False,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
            **({"head_dim": 2 * HEAD} if qwen3 else {}),
            "hidden_act": "silu",
            "hidden_size": WIDTH,
            "intermediate_size": MLP,
            "max_position_embeddings": 256,
            "max_window_layers": LAYERS,
            "model_type": f"a2d-{backbone}",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KV,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": vocab,
        },
    )
    _decoder_tensors(make, vocab, bias=not qwen3, head=2 * HEAD if qwen3 else HEAD, qk_norm=qwen3)
    _dense_mlp(make)
    return make.write()
