"""LLaDA-8B Base, Instruct, 1.5 and iLLaDA: a Llama under OLMo's tensor names.

Facts: Nie et al. 2025 (arXiv 2502.09992) and the checkpoints' own files. The
network equals ``LlamaForCausalLM`` tensor by tensor; output i predicts token i.
All ids come from config.json: LLaDA's mask is 126336, iLLaDA's is 5.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from ...errors import UserError
from ..checkpoint import Checkpoint
from ..decoder import DecoderFamily, DecoderTeacher, load_decoder
from ..options import LoadOptions

NAME = "llada"
_IN_BLOCK = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",  # at the top level, ff_out is the head
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}
_KEYS = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
} | {
    rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{stock}."
    for theirs, stock in _IN_BLOCK.items()
}
# OLMo's code has options that a Llama lacks: a checkpoint that states one must state this value.
_REQUIRED = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "attention_layer_norm": False,
}
_FAMILY = DecoderFamily(NAME, LlamaForCausalLM, key_mapping=_KEYS)


def matches(config: dict[str, Any]) -> bool:
    return str(config.get("model_type", "")).lower() in ("llada", "illada")


def load(checkpoint: Checkpoint, options: LoadOptions) -> DecoderTeacher:
    stated = checkpoint.config
    for key, value in _REQUIRED.items():
        if stated.get(key, value) != value:
            raise UserError(
                f"{checkpoint.folder}: {key}={stated[key]!r} is a LLaDA variant not supported here "
                f"(only {value!r} is)."
            )
    width, heads = checkpoint.require("d_model"), checkpoint.require("n_heads")
    config = LlamaConfig(
        vocab_size=stated.get("embedding_size") or checkpoint.require("vocab_size"),
        hidden_size=width,
        intermediate_size=stated.get("mlp_hidden_size") or width * stated.get("mlp_ratio", 4),
        num_hidden_layers=checkpoint.require("n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=stated.get("n_kv_heads") or heads,
        max_position_embeddings=checkpoint.require("max_sequence_length"),
        rms_norm_eps=stated.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": checkpoint.require("rope_theta")},
        tie_word_embeddings=stated.get("weight_tying", False),
    )
    # The defaults of the authors' own generate(): greedy, most confident position first.
    defaults = {"temperature": 0.0, "order": "confidence"}
    return load_decoder(checkpoint, options, _FAMILY, config, defaults)
