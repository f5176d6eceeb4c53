"""What a teacher offers to the rest of the library.

The sampler, the updates, the loss, every decoder and every meter use a teacher
through this protocol alone, so a test teacher with a known joint is a few lines.
``load.py`` and ``families/`` turn a checkpoint into a teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .keyvalues import KeyValues


@dataclass(frozen=True)
class LayerShape:
    """The shape of one bidirectional layer of a teacher's family at some width."""

    heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    norm_eps: float


@runtime_checkable
class Teacher(Protocol):
    """A frozen masked-diffusion LM. B rows, S positions, H hidden_size, V vocab_size.

    States are [B, S, H], the network's final hidden states. The states of a
    teacher made by :meth:`reading` are [B, S, (1 + F) H]: the final hidden
    states, then the outputs of F intermediate layers. Samplers may read these;
    the LM head ignores them.
    """

    name: str
    family: str  # the file in ``families/`` that loaded it
    fingerprint: str  # identifies weights and config; corpus, sampler and report record it
    tokenizer: PreTrainedTokenizerBase | None
    mask_id: int
    bos_id: int | None  # opens every sequence, if the family has one
    eos_id: int | None  # ends a response
    end_ids: tuple[int, ...]  # eos_id and, for chat models, the end of a turn
    pad_id: int
    forbidden_ids: Tensor  # [F] int64, never sampled: mask, pad, bos, ids past the tokenizer
    hidden_size: int
    layers: int  # of the network
    read_layers: tuple[int, ...]  # the F intermediate layers whose outputs the states hold
    vocab_size: int
    shift: int  # raw output c serves position c + shift: 0, or 1 for families shifted by one
    max_length: int
    device: torch.device
    generation_defaults: Mapping[str, float | str]  # keywords of generate(), from the authors

    def hidden(
        self, ids: Tensor, attention_mask: Tensor | None = None, stored: KeyValues | None = None
    ) -> Tensor:
        """A full pass: [B, S] int64 (and [B, S] bool, False on left padding) -> states.

        Aligned: the state at position i predicts token i, also where the family
        is shifted. With ``stored``, the pass fills it for later calls of :meth:`rerun`.
        """

    def rerun(
        self,
        ids: Tensor,
        columns: Tensor,
        attention_mask: Tensor | None,
        stored: KeyValues,
        depth: int | None = None,
    ) -> Tensor:
        """Raw final outputs [B, C, H] at ``columns`` [B, C] int64 of ids [B, S].

        With ``depth`` only the lowest ``depth`` layers run, and the outputs of the
        highest of them come back.

        The teacher's own layers compute these columns alone, on the stored keys
        and values of all other columns. The columns' new keys and values replace
        the stored ones. A row may name a column twice. The outputs are not
        aligned: output of column c serves position c + shift. ``attention_mask``
        is that of the full pass. See ``columns.check_rerun`` for who can do this.
        """

    def finish(self, outputs: Tensor) -> Tensor:
        """Outputs of the last layer [..., H] -> final hidden states: the norm before the LM head.

        The identity where a network has no such norm.
        """

    def logits(self, states: Tensor) -> Tensor:
        """[..., H or more] -> [..., V] float32, the frozen LM head; forbidden ids at -inf."""

    def embed(self, ids: Tensor) -> Tensor:
        """[B, S] int64 -> [B, S, H], the frozen input embedding."""

    def reading(self, layers: Sequence[int]) -> Teacher:
        """The same teacher with states that also hold the outputs of ``layers``.

        1 is the lowest; the last one's are those that :meth:`finish` takes.
        """

    def layer_shape(self, width: int) -> LayerShape:
        """A layer of this family scaled to ``width``; UserError if the width does not fit."""


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
    """A layer at ``width`` with the teacher's head size and its ratio of MLP to width.

    Raises UserError if the width is not a whole number of heads.
    """
    head_dim = head_dim or teacher.hidden_size // heads
    if width < head_dim or width % head_dim:
        raise UserError(
            f"Sampler width {width} is not a multiple of the head size {head_dim} of teacher "
            f"{teacher.name!r}: choose one of {head_dim}, {2 * head_dim}, ..., {teacher.hidden_size}."
        )
    # Matrix shapes that are multiples of 8 suit vector units.
    intermediate = round(intermediate_size * width / teacher.hidden_size / 8) * 8
    return LayerShape(
        heads=width // head_dim,
        head_dim=head_dim,
        intermediate_size=max(8, intermediate),
        rope_theta=rope_theta,
        norm_eps=norm_eps,
    )
