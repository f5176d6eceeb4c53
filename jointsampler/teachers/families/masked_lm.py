"""Any Hugging Face ``*ForMaskedLM``: BERT, RoBERTa, ModernBERT, ALBERT, ESM and others.

A masked LM trained at many mask ratios is a masked-diffusion model; one trained
at 15 % approximates one. Both can be teachers. ``[CLS]`` opens a sequence and
``[SEP]`` ends a response.
"""

from __future__ import annotations

import contextlib
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
from .. import layer_outputs
from ..checkpoint import Checkpoint, auto_config
from ..columns import KeyValues, rerunning, storing
from ..options import LoadOptions
from ..protocol import LayerShape, position_ids, scaled_layer
from ..tokenization import SpecialIds, load_tokenizer, special_ids, suppression
from ..weights import load_stock

NAME = "masked_lm"
# Tensors of pretraining that are neither the encoder's nor the masked-LM head's.
_OTHER_HEADS = (
    r"pooler|seq_relationship|sop_classifier|contact_head|position_ids|inv_freq|^lm_head\.bias$"
)
# Norms behind the last layer, of ModernBERT and ESM. Most masked LMs have none there.
_FINAL_NORMS = ("final_norm", "encoder.emb_layer_norm_after")
# Where ALBERT and ELECTRA project narrow embeddings to the encoder's width.
_PROJECTIONS = ("encoder.embedding_hidden_mapping_in", "embeddings_project")


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
    """Takes the encoder's place and returns the hidden states it is called with."""

    def forward(self, input_ids=None, inputs_embeds=None, **ignored: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def head_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model's own forward without its encoder: [B, S, H] as ``inputs_embeds`` -> logits.

    Every ``*ForMaskedLM`` names and builds its head differently, but all call
    their encoder in the same way. So the encoder of a shallow copy is replaced.
    """
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Given()}
    return head


class MaskedLMTeacher:
    """See :class:`jointsampler.teachers.protocol.Teacher` for methods and shapes."""

    family, shift = NAME, 0
    generation_defaults: ClassVar[dict[str, float | str]] = {}  # masked LMs state none

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
        self._takes_positions = "position_ids" in inspect.signature(self.encoder.forward).parameters
        self._padding_index = _padding_index(self.encoder)
        reserved = 0 if self._padding_index is None else self._padding_index + 1
        self.max_length = getattr(config, "max_position_embeddings", 512) - reserved
        self.forbidden_ids = ids.forbidden(self.vocab_size, len(tokenizer))
        self._suppress = suppression(self.forbidden_ids, self.vocab_size, self.device)
        self._widen = self._widening(checkpoint)
        self._final_norm = _submodule(self.encoder, _FINAL_NORMS) or nn.Identity()
        layer_outputs.watch(self._layers(checkpoint))

    def _widening(self, checkpoint: Checkpoint) -> nn.Module:
        """The projection from the embedding's width to the encoder's, where they differ."""
        width = self.model.get_input_embeddings().embedding_dim
        if width == self.hidden_size:
            return nn.Identity()
        found = _submodule(self.encoder, _PROJECTIONS)
        if found is not None:
            return found
        raise UserError(
            f"{checkpoint.folder}: the embeddings have width {width}, the network has "
            f"{self.hidden_size}, and no known projection joins them: this masked LM is not supported."
        )

    def _layers(self, checkpoint: Checkpoint) -> Sequence[nn.Module]:
        """The modules that are called ``layers`` times in a pass: the layers, or ALBERT's shared one."""
        lists = [m for m in self.encoder.modules() if isinstance(m, nn.ModuleList)]
        shared = getattr(getattr(self.encoder, "encoder", None), "albert_layer_groups", None)
        found = next((m for m in lists if len(m) == self.layers), shared)
        if found is None:
            raise UserError(
                f"{checkpoint.folder}: no list of {self.layers} layers in {type(self.encoder).__name__}: "
                "this masked LM is not supported."
            )
        return found

    def hidden(
        self, ids: Tensor, attention_mask: Tensor | None = None, stored: KeyValues | None = None
    ) -> Tensor:
        extra: dict[str, Tensor] = {}
        if attention_mask is not None:
            extra["attention_mask"] = attention_mask.long()
            if self._takes_positions:
                extra["position_ids"] = self._positions(ids, attention_mask)
        with storing(stored), layer_outputs.noting(self.read_layers) as noted:
            final = self.encoder(input_ids=ids, **extra)[0]
        return torch.cat([final, *noted.values()], dim=-1) if noted else final

    def rerun(
        self,
        ids: Tensor,
        columns: Tensor,
        attention_mask: Tensor | None,
        stored: KeyValues,
        depth: int | None = None,
    ) -> Tensor:
        positions = self._positions(ids, attention_mask)
        if getattr(getattr(self.encoder, "embeddings", None), "token_dropout", False):
            inputs = {"inputs_embeds": self._scaled(ids, columns, attention_mask, positions)}
        else:
            inputs = {"input_ids": ids.gather(1, columns)}
        if self._takes_positions:
            inputs["position_ids"] = positions.gather(1, columns)

        def run() -> Tensor:
            return self.encoder(**inputs)[0]

        with rerunning(stored, columns):  # the stored masks apply
            return run() if depth is None else layer_outputs.lowest(depth, run)

    def finish(self, outputs: Tensor) -> Tensor:
        return self._final_norm(outputs.to(self.model.dtype))

    def _positions(self, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The position ids [B, S] that a full pass uses."""
        if self._padding_index is not None:
            real = ids != self._padding_index
            return real.long().cumsum(-1) * real + self._padding_index
        if attention_mask is not None:
            return position_ids(attention_mask)
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

    def _scaled(
        self, ids: Tensor, columns: Tensor, attention_mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        """ESM's embeddings [B, C, H]: token_dropout scales them by the canvas's share of masks."""
        mask = None if attention_mask is None else attention_mask.long()
        whole = self.encoder.embeddings(input_ids=ids, attention_mask=mask, position_ids=positions)
        return whole.gather(1, columns[..., None].expand(-1, -1, whole.shape[-1]))

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


def _submodule(module: nn.Module, paths: Sequence[str]) -> nn.Module | None:
    """The first of ``paths`` that exists in ``module``."""
    for path in paths:
        with contextlib.suppress(AttributeError):
            return module.get_submodule(path)
    return None


def _padding_index(encoder: PreTrainedModel) -> int | None:
    """Where RoBERTa's line starts to count: positions come from the ids and begin at this + 1.

    None for classes that count positions from 0.
    """
    for module in encoder.modules():
        derives = hasattr(module, "create_position_ids_from_inputs_embeds")
        if derives and hasattr(module, "position_embeddings"):
            return module.padding_idx
    return None
