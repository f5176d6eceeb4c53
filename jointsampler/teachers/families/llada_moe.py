"""LLaDA-MoE-7B-A1B: a Qwen3-MoE whose router does not renormalise the weights of its top experts.

Facts: Zhu et al. 2025 (arXiv 2509.24389) and the checkpoints' own files:
64 experts, 8 of them per token, no shared expert, an RMSNorm on each head's query and key.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from ...errors import UserError
from ..checkpoint import Checkpoint
from ..decoder import DecoderFamily, DecoderTeacher, load_decoder
from ..options import LoadOptions

NAME = "llada_moe"
_FAMILY = DecoderFamily(NAME, Qwen3MoeForCausalLM)
_REQUIRED = {
    "qk_layernorm": True,
    "partial_rotary_factor": 1,
    "routed_scaling_factor": 1.0,
    "moe_router_enable_expert_bias": False,
    "shared_expert_intermediate_size": None,
    "num_shared_experts": None,
}


def matches(config: dict[str, Any]) -> bool:
    named = [str(config.get("model_type", "")), *(config.get("architectures") or [])]
    return any(name.lower().replace("_", "").startswith("lladamoe") for name in named)


def load(checkpoint: Checkpoint, options: LoadOptions) -> DecoderTeacher:
    stated = checkpoint.config
    for key, value in _REQUIRED.items():
        if stated.get(key) is not None and stated[key] != value:
            raise UserError(
                f"{checkpoint.folder}: {key}={stated[key]!r} is a LLaDA-MoE variant not supported here "
                f"(only {value!r} is)."
            )
    width, heads = checkpoint.require("hidden_size"), checkpoint.require("num_attention_heads")
    layers = checkpoint.require("num_hidden_layers")
    sparse = stated.get("moe_layer_freq") or [1] * layers
    config = Qwen3MoeConfig(
        vocab_size=checkpoint.require("vocab_size"),
        hidden_size=width,
        intermediate_size=stated.get("dense_intermediate_size") or 4 * width,
        moe_intermediate_size=checkpoint.require("expert_intermediate_size"),
        num_experts=checkpoint.require("num_experts"),
        num_experts_per_tok=checkpoint.require("num_experts_per_tok"),
        norm_topk_prob=bool(stated.get("norm_topk_prob")),
        mlp_only_layers=[i for i, used in enumerate(sparse) if not used],
        decoder_sparse_step=1,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=stated.get("num_key_value_heads") or heads,
        head_dim=stated.get("head_dim") or width // heads,
        max_position_embeddings=checkpoint.require("max_position_embeddings"),
        rms_norm_eps=stated.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": checkpoint.require("rope_theta")},
        attention_bias=stated.get("attention_bias", False),
        tie_word_embeddings=stated.get("tie_word_embeddings", False),
    )
    defaults = {"temperature": 0.0, "order": "confidence"}  # as for LLaDA
    return load_decoder(checkpoint, options, _FAMILY, config, defaults)
