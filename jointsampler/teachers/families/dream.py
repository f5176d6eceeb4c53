"""Dream-v0, Dream-Coder and DiffuCoder: Qwen2.5 shapes whose output i predicts token i + 1.

Facts: Ye et al. 2025 (arXiv 2508.15487) and the checkpoints' own files. Tensor
names are Qwen2's. The tokenizer's class is remote code without a fast version;
its vocabulary is Qwen2's with added tokens, so the stock class can read it. Only
the tokenizer states the bos (``<|beginoftext|>``) and DiffuCoder's pad;
config.json repeats eos in their place.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from ..checkpoint import Checkpoint
from ..decoder import DecoderFamily, DecoderTeacher, load_decoder, stock_config
from ..options import LoadOptions

NAME = "dream"
_FAMILY = DecoderFamily(
    NAME,
    Qwen2ForCausalLM,
    shift=1,
    tokenizer_class=Qwen2Tokenizer,
    trust={"bos": "tokenizer", "pad": "tokenizer"},
)
# Dream's name of a reveal order -> jointsampler's.
_ORDERS = {
    "origin": "random",
    "maskgit_plus": "confidence",
    "topk_margin": "margin",
    "entropy": "entropy",
}


def matches(config: dict[str, Any]) -> bool:
    return str(config.get("model_type", "")).lower() == "dream"


def load(checkpoint: Checkpoint, options: LoadOptions) -> DecoderTeacher:
    stated = checkpoint.read_json("generation_config.json")
    defaults = {key: stated[key] for key in ("temperature", "top_p") if stated.get(key) is not None}
    if stated.get("alg") in _ORDERS:
        defaults["order"] = _ORDERS[stated["alg"]]
    config = stock_config(Qwen2Config, checkpoint)
    return load_decoder(checkpoint, options, _FAMILY, config, defaults)
