"""Teachers in a stock transformers causal-LM class made bidirectional.

Covers every checkpoint whose ``config.json`` says ``is_causal: false``, names a
``mask_token_id`` and predicts token i at position i: the embedded teacher, and
whatever ``workflows/pretrain.py`` trains. Families with their own tensor names
or a shift of the logits bring files of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from .protocol import LayerShape, position_ids


class StockTeacher:
    """See :class:`jointsampler.teachers.protocol.Teacher` for shapes."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        fingerprint: str,
    ):
        config = model.config
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.fingerprint = tokenizer, name, fingerprint
        self.mask_id = config.mask_token_id
        self.bos_id, self.eos_id = config.bos_token_id, config.eos_token_id
        self.pad_id = config.pad_token_id
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.max_length = config.max_position_embeddings
        self.device = model.device
        named = {self.mask_id, self.pad_id, self.bos_id} - {None, self.eos_id}
        beyond = range(len(tokenizer), self.vocab_size)
        self.forbidden_ids = torch.tensor(sorted({*named, *beyond}), dtype=torch.long)
        self._suppress = torch.zeros(self.vocab_size, device=self.device)
        self._suppress[self.forbidden_ids] = -torch.inf

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        extra = {}
        if attention_mask is not None:
            extra = {
                "attention_mask": attention_mask.long(),
                "position_ids": position_ids(attention_mask),
            }
        return self.model.model(input_ids=ids, use_cache=False, **extra).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden).float() + self._suppress

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def layer_shape(self, width: int) -> LayerShape:
        config = self.model.config
        head_dim = (
            getattr(config, "head_dim", None) or self.hidden_size // config.num_attention_heads
        )
        if width < head_dim or width % head_dim:
            raise UserError(
                f"Sampler width {width} is not a multiple of the head size {head_dim} of teacher "
                f"{self.name!r}: choose one of {head_dim}, {2 * head_dim}, ..., {self.hidden_size}."
            )
        # A multiple of 8 keeps the matrix shapes friendly to vector units.
        intermediate = round(config.intermediate_size * width / self.hidden_size / 8) * 8
        return LayerShape(
            heads=width // head_dim,
            head_dim=head_dim,
            intermediate_size=max(8, intermediate),
            rope_theta=float(config.rope_parameters["rope_theta"]),
            norm_eps=config.rms_norm_eps,
        )
