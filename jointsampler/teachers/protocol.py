"""What a teacher must offer; everything family-specific ends behind it.

The sampler, the loss, every decoder and every meter see only this, so a test
teacher with a known joint is a few lines. How a checkpoint becomes a teacher
is left to ``load.py`` and the family files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LayerShape:
    """What one bidirectional layer of a teacher's family looks like at some width."""

    heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    norm_eps: float


@runtime_checkable
class Teacher(Protocol):
    """A frozen masked-diffusion LM. B rows, S positions, H hidden_size, V vocab_size."""

    name: str
    fingerprint: str  # names weights and config; corpus, sampler and report record it
    tokenizer: PreTrainedTokenizerBase | None
    mask_id: int
    bos_id: int | None  # opens every sequence, if the family has one
    eos_id: int | None  # ends a response
    pad_id: int
    forbidden_ids: Tensor  # [F] int64, never sampled: mask, pad, bos, ids past the tokenizer
    hidden_size: int
    vocab_size: int
    max_length: int
    device: torch.device

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[B, S] int64 (and [B, S] bool, False on left padding) -> [B, S, H].

        ALIGNED: position i predicts token i; a family's shift happens here, once.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V] float32, the frozen LM head; forbidden ids at -inf."""

    def embed(self, ids: Tensor) -> Tensor:
        """[B, S] int64 -> [B, S, H], the frozen input embedding."""

    def layer_shape(self, width: int) -> LayerShape:
        """A layer of this family scaled to ``width``; UserError where it does not fit."""


def position_ids(attention_mask: Tensor) -> Tensor:
    """[B, S] bool with left padding -> [B, S] int64: the first real token has position 0."""
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
