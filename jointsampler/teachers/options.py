"""What a user may choose when a teacher is loaded; the same options for every family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Quantization = Literal["none", "int8", "int4"]


@dataclass(frozen=True)
class LoadOptions:
    device: torch.device
    dtype: torch.dtype
    quantization: Quantization = "none"
    tokenizer: str | None = None  # a folder or hub id, where the checkpoint has no tokenizer
