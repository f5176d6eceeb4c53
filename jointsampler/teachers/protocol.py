"""What a teacher must offer; everything family-specific ends behind it.

The sampler, the loss, every decoder and every meter see only this, so a test
teacher with a known joint is a few lines. How a checkpoint becomes a teacher
is left to ``load.py`` and ``families/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import UserError


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
    """A frozen masked-diffusion LM. B rows, S positions, H hidden_size, V vocab_size.

    States are [B, S, H] as the network gives them, or [B, S, (1 + F) H] of a
    teacher that :meth:`reading` made: the final hidden states, then the outputs
    of F intermediate layers, which samplers may read and heads do not.
    """

    name: str
    family: str  # the file in ``families/`` that loaded it
    fingerprint: str  # names weights and config; corpus, sampler and report record it
    tokenizer: PreTrainedTokenizerBase | None
    mask_id: int
    bos_id: int | None  # opens every sequence, if the family has one
    eos_id: int | None  # ends a response
    end_ids: tuple[int, ...]  # eos_id and, for chat models, the end of a turn
    pad_id: int
    forbidden_ids: Tensor  # [F] int64, never sampled: mask, pad, bos, ids past the tokenizer
    hidden_size: int
    layers: int  # of the network
    read_layers: tuple[int, ...]  # F of them, whose outputs the states carry
    vocab_size: int
    linear_head: bool  # whether logits are linear in the hidden states, forbidden ids apart
    max_length: int
    device: torch.device
    generation_defaults: Mapping[str, float | str]  # keywords of generate() that its makers use

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[B, S] int64 (and [B, S] bool, False on left padding) -> states [B, S, (1 + F) H].

        ALIGNED: position i predicts token i; a family's shift happens here, once.
        """

    def logits(self, states: Tensor) -> Tensor:
        """[..., H or more] -> [..., V] float32, the frozen LM head; forbidden ids at -inf."""

    def embed(self, ids: Tensor) -> Tensor:
        """[B, S] int64 -> [B, S, H], the frozen input embedding."""

    def reading(self, layers: Sequence[int]) -> Teacher:
        """The same teacher, whose states also carry the outputs of ``layers`` (1 is the lowest)."""

    def layer_shape(self, width: int) -> LayerShape:
        """A layer of this family scaled to ``width``; UserError where it does not fit."""


def position_ids(attention_mask: Tensor) -> Tensor:
    """[B, S] bool with left padding -> [B, S] int64: the first real token has position 0."""
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


def scaled_layer(
    teacher: Teacher,
    width: int,
    heads: int,
    intermediate_size: int,
    rope_theta: float = 10_000.0,
    norm_eps: float = 1e-5,
    head_dim: int | None = None,
) -> LayerShape:
    """A layer at ``width`` with the teacher's head size and its share of MLP.

    Raises UserError where the width holds no whole number of heads.
    """
    head_dim = head_dim or teacher.hidden_size // heads
    if width < head_dim or width % head_dim:
        raise UserError(
            f"Sampler width {width} is not a multiple of the head size {head_dim} of teacher "
            f"{teacher.name!r}: choose one of {head_dim}, {2 * head_dim}, ..., {teacher.hidden_size}."
        )
    # A multiple of 8 keeps the matrix shapes friendly to vector units.
    intermediate = round(intermediate_size * width / teacher.hidden_size / 8) * 8
    return LayerShape(
        heads=width // head_dim,
        head_dim=head_dim,
        intermediate_size=max(8, intermediate),
        rope_theta=rope_theta,
        norm_eps=norm_eps,
    )
