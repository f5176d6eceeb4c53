"""Any stock causal-LM class whose ``config.json`` says ``is_causal: false`` and names a mask.

The embedded teacher, and whatever ``workflows/pretrain.py`` trains: token i is
predicted at position i.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..checkpoint import Checkpoint, auto_config
from ..decoder import DecoderTeacher, load_decoder
from ..options import LoadOptions

NAME = "stock"


def matches(config: dict[str, Any]) -> bool:
    known = config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return known and config.get("is_causal") is False


def load(checkpoint: Checkpoint, options: LoadOptions) -> DecoderTeacher:
    return load_decoder(checkpoint, options, NAME, AutoModelForCausalLM, auto_config(checkpoint))
