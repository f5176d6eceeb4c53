"""Any stock causal-LM class whose ``config.json`` says ``is_causal: false`` and names a mask.

The embedded teacher is one, and so is every teacher that the tiny-teacher
recipe trains. Output i predicts token i.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..checkpoint import Checkpoint, auto_config
from ..decoder import DecoderFamily, DecoderTeacher, load_decoder
from ..options import LoadOptions

NAME = "stock"
_FAMILY = DecoderFamily(NAME, AutoModelForCausalLM)


def matches(config: dict[str, Any]) -> bool:
    known = config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return known and config.get("is_causal") is False


def load(checkpoint: Checkpoint, options: LoadOptions) -> DecoderTeacher:
    return load_decoder(checkpoint, options, _FAMILY, auto_config(checkpoint))
