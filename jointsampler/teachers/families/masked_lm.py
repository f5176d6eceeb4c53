"""Any Hugging Face ``*ForMaskedLM``: BERT, RoBERTa, ModernBERT, ALBERT, ESM and their like.

A masked LM trained at many mask ratios is a masked-diffusion model, and one
trained at 15 % is an approximate one; either is a teacher whose joint a sampler
can follow. ``[CLS]`` opens a sequence and ``[SEP]`` ends a response.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ...errors import UserError
from ..checkpoint import Checkpoint, auto_config
from ..options import LoadOptions
from ..protocol import LayerShape, position_ids, scaled_layer
from ..tokenization import SpecialIds, load_tokenizer, special_ids, suppression
from ..weights import load_stock

NAME = "masked_lm"
# What pretraining left beside the encoder and its masked-LM head.
_OTHER_HEADS = (
    r"pooler|seq_relationship|sop_classifier|contact_head|position_ids|inv_freq|^lm_head\.bias$"
)


def matches(config: dict[str, Any]) -> bool:
    named = any(name.endswith("ForMaskedLM") for name in config.get("architectures") or [])
    known = config.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return named and known and not config.get("is_decoder", False)


def load(checkpoint: Checkpoint, options: LoadOptions) -> MaskedLMTeacher:
    config = auto_config(checkpoint)
    tokenizer = load_tokenizer(checkpoint, options.tokenizer)
    opens = tokenizer.cls_token_id, tokenizer.bos_token_id
    closes = tokenizer.sep_token_id, tokenizer.eos_token_id
    ids = special_ids(
        checkpoint,
        tokenizer,
        trust={"mask": "tokenizer", "pad": "tokenizer"},
        bos=next((i for i in opens if i is not None), None),
        eos=next((i for i in closes if i is not None), None),
    )
    model = load_stock(AutoModelForMaskedLM, checkpoint, options, config, ignored=_OTHER_HEADS)
    return MaskedLMTeacher(model, checkpoint, tokenizer, ids)


class _Given(nn.Module):
    """Stands where the encoder stood and hands on the hidden states it is given."""

    def forward(self, input_ids=None, inputs_embeds=None, **ignored: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def head_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model's own forward without its encoder: [B, S, H] as ``inputs_embeds`` -> logits.

    Every ``*ForMaskedLM`` names and builds its head differently, and all call
    their encoder the same way; so the encoder of a shallow copy is replaced.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Given()}
    return head


class MaskedLMTeacher:
    """See :class:`jointsampler.teachers.protocol.Teacher` for shapes."""

    family, linear_head = NAME, False  # most heads have a dense layer of their own
    generation_defaults: ClassVar[dict[str, float | str]] = {}  # masked LMs come without any

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint, tokenizer, ids: SpecialIds):
        self.model = model.eval().requires_grad_(False)
        self.encoder, self.head = model.base_model, head_of(model)
        self.name, self.fingerprint = checkpoint.name, checkpoint.fingerprint
        self.tokenizer, self.device = tokenizer, model.device
        self.mask_id, self.bos_id, self.eos_id, self.pad_id = ids.mask, ids.bos, ids.eos, ids.pad
        self.end_ids = ids.ends
        config = model.config
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.layers = getattr(config, "num_hidden_layers", None) or config.n_layers  # DistilBERT
        self.read_layers: tuple[int, ...] = ()
        # RoBERTa's line derives positions from the ids, counting from past the padding index.
        derives = [
            m for m in self.encoder.modules() if hasattr(m, "create_position_ids_from_input_ids")
        ]
        accepted = inspect.signature(self.encoder.forward).parameters
        self._give_positions = "position_ids" in accepted and not derives
        reserved = derives[0].padding_idx + 1 if derives else 0
        self.max_length = getattr(config, "max_position_embeddings", 512) - reserved
        self.forbidden_ids = ids.forbidden(self.vocab_size, len(tokenizer))
        self._suppress = suppression(self.forbidden_ids, self.vocab_size, self.device)
        self._widen = self._widening(checkpoint)

    def _widening(self, checkpoint: Checkpoint) -> nn.Module:
        """From the embedding's width to the encoder's, where a family factorises it."""
        width = self.model.get_input_embeddings().embedding_dim
        if width == self.hidden_size:
            return nn.Identity()
        for path in (
            "encoder.embedding_hidden_mapping_in",
            "embeddings_project",
        ):  # ALBERT, ELECTRA
            try:
                return self.encoder.get_submodule(path)
            except AttributeError:
                continue
        raise UserError(
            f"{checkpoint.folder}: embeddings of {width} in a network of {self.hidden_size} and no "
            "projection known between them: this masked LM is not supported."
        )

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        extra: dict[str, Tensor] = {}
        if attention_mask is not None:
            extra["attention_mask"] = attention_mask.long()
            if self._give_positions:
                extra["position_ids"] = position_ids(attention_mask)
        wanted = bool(self.read_layers)
        out = self.encoder(input_ids=ids, output_hidden_states=wanted, **extra)
        if not wanted:
            return out[0]
        read = [out.hidden_states[layer] for layer in self.read_layers]
        return torch.cat([out[0], *read], dim=-1)

    def reading(self, layers: Sequence[int]) -> MaskedLMTeacher:
        other = copy.copy(self)
        other.read_layers = tuple(layers)
        return other

    def logits(self, states: Tensor) -> Tensor:
        hidden = states[..., : self.hidden_size]
        flat = hidden.to(self.model.dtype).reshape(1, -1, self.hidden_size)  # heads want [B, S, H]
        logits = self.head(inputs_embeds=flat).logits.float() + self._suppress
        return logits.view(*hidden.shape[:-1], self.vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        return self._widen(self.model.get_input_embeddings()(ids))

    def layer_shape(self, width: int) -> LayerShape:
        config = self.model.config
        intermediate = getattr(config, "intermediate_size", None) or 4 * self.hidden_size
        return scaled_layer(self, width, config.num_attention_heads, intermediate)
