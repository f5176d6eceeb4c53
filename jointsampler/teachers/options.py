"""How a teacher is placed: what a user may choose at load time, for every family alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Quantization = Literal["none", "int8", "int4"]


@dataclass(frozen=True)
class LoadOptions:
    device: torch.device
    dtype: torch.dtype
    attention: Literal["sdpa", "eager"] = "sdpa"
    quantization: Quantization = "none"
    tokenizer: str | None = None  # a folder or hub id, where the checkpoint has none of its own
