"""A2D: autoregressive backbones turned into masked-diffusion models by fine-tuning.

Qwen3-0.6B-diffusion-mdlm, Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm and other
models of dLLM's recipe. Tensor names are the backbone's. Output i predicts
token i. The mask is a token added to the tokenizer; there is a bos only if the
tokenizer has one.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ...errors import unknown_name
from ..checkpoint import Checkpoint
from ..decoder import DecoderFamily, DecoderTeacher, load_decoder, stock_config
from ..options import LoadOptions

NAME = "a2d"
_BACKBONES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def matches(config: dict[str, Any]) -> bool:
    return str(config.get("model_type", "")).lower().startswith("a2d-")


def load(checkpoint: Checkpoint, options: LoadOptions) -> DecoderTeacher:
    backbone = checkpoint.require("model_type").lower().removeprefix("a2d-")
    if backbone not in _BACKBONES:
        raise unknown_name("A2D backbone", backbone, _BACKBONES)
    config_class, model_class = _BACKBONES[backbone]
    family = DecoderFamily(
        NAME,
        model_class,
        tokenizer_class=None if backbone == "llama" else Qwen2Tokenizer,
        trust={"mask": "tokenizer", "bos": "tokenizer only", "pad": "tokenizer"},
    )
    return load_decoder(checkpoint, options, family, stock_config(config_class, checkpoint))
