"""Teachers in a stock transformers decoder made bidirectional.

Covers every family whose network is a stock causal LM without the causal mask:
what differs between them (names, ids, a shift of the logits) is in ``families/``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from ..errors import UserError
from .checkpoint import Checkpoint
from .options import LoadOptions
from .protocol import LayerShape, position_ids, scaled_layer
from .tokenization import SpecialIds, load_tokenizer, special_ids, suppression
from .weights import load_stock


class DecoderTeacher:
    """See :class:`jointsampler.teachers.protocol.Teacher` for shapes."""

    linear_head = True

    def __init__(
        self,
        model: PreTrainedModel,
        checkpoint: Checkpoint,
        tokenizer,
        ids: SpecialIds,
        family: str,
        shifted: bool = False,
        defaults: dict[str, float | str] | None = None,
    ):
        config = model.config
        self.model = model.eval().requires_grad_(False)
        self.name, self.family = checkpoint.name, family
        self.fingerprint, self.tokenizer = checkpoint.fingerprint, tokenizer
        self.mask_id, self.bos_id, self.eos_id, self.pad_id = ids.mask, ids.bos, ids.eos, ids.pad
        self.end_ids, self.shifted = ids.ends, shifted
        self.generation_defaults = defaults or {}
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.layers = config.num_hidden_layers
        self.read_layers: tuple[int, ...] = ()
        self.max_length = config.max_position_embeddings
        self.device = model.device
        self.forbidden_ids = ids.forbidden(self.vocab_size, len(tokenizer))
        self._suppress = suppression(self.forbidden_ids, self.vocab_size, self.device)

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        extra = {}
        if attention_mask is not None:
            extra = {
                "attention_mask": attention_mask.long(),
                "position_ids": position_ids(attention_mask),
            }
        return self.align(self._outputs(input_ids=ids, use_cache=False, **extra), attention_mask)

    def reading(self, layers: Sequence[int]) -> DecoderTeacher:
        other = copy.copy(self)
        other.read_layers = tuple(layers)
        return other

    def _outputs(self, **inputs: Any) -> Tensor:
        """[B, S, (1 + F) H], not aligned."""
        wanted = bool(self.read_layers)
        out = self.model.model(output_hidden_states=wanted, **inputs)
        if not wanted:
            return out.last_hidden_state
        read = [out.hidden_states[layer] for layer in self.read_layers]
        return torch.cat([out.last_hidden_state, *read], dim=-1)

    def align(self, raw: Tensor, attention_mask: Tensor | None) -> Tensor:
        """[B, S, ...] outputs of the network, from the first column on -> states in place."""
        if not self.shifted:
            return raw
        # Output i predicts token i + 1. A row's first token has no output and keeps its own, also
        # behind padding: the sampler reads every position, and must not read what a pad computed.
        aligned = torch.cat([raw[:, :1], raw[:, :-1]], dim=1)
        if attention_mask is None:
            return aligned
        first = attention_mask.long().cumsum(-1) == 1
        return torch.where(first[..., None], raw, aligned)

    def outputs_after(
        self, past: DynamicCache | None, ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, DynamicCache]:
        """Outputs [B, S, (1 + F) H], not aligned, of ids [B, S] behind what ``past`` holds, which grows by them.

        attention_mask: [B, past + S] bool. Every new position sees the past and all new ones.
        """
        past = DynamicCache() if past is None else past
        raw = self._outputs(
            input_ids=ids,
            attention_mask=attention_mask.long(),
            position_ids=position_ids(attention_mask)[:, -ids.shape[1] :],
            past_key_values=past,
            use_cache=True,
        )
        return raw, past

    def logits(self, states: Tensor) -> Tensor:
        # A float32 sampler's states on a bfloat16 head: the head's precision is the teacher's.
        hidden = states[..., : self.hidden_size].to(self.model.dtype)
        return self.model.lm_head(hidden).float() + self._suppress

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def layer_shape(self, width: int) -> LayerShape:
        config = self.model.config
        return scaled_layer(
            self,
            width,
            config.num_attention_heads,
            config.intermediate_size,
            float(config.rope_parameters["rope_theta"]),
            config.rms_norm_eps,
            getattr(config, "head_dim", None),
        )


def stock_config(config_class: type[PretrainedConfig], checkpoint: Checkpoint) -> PretrainedConfig:
    """A checkpoint's ``config.json`` read by a stock class, without what names its remote code."""
    foreign = {"auto_map", "architectures", "model_type", "torch_dtype", "dtype"}
    return config_class.from_dict(
        {key: value for key, value in checkpoint.config.items() if key not in foreign}
    )


def check_parts(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """UserError unless the class is a body ``model`` and a plain ``lm_head``, with nothing between.

    Some families scale or cap their logits: half of such a model would be another model.
    """
    fits = hasattr(model, "model") and hasattr(model, "lm_head")
    if fits and model.device.type != "meta":
        ids = torch.arange(4, device=model.device)[None]
        with torch.inference_mode():
            parts = model.lm_head(model.model(input_ids=ids, use_cache=False).last_hidden_state)
            fits = torch.equal(parts, model(input_ids=ids, use_cache=False).logits)
    if not fits:
        raise UserError(
            f"{checkpoint.folder}: {type(model).__name__} is more than a body and a linear head "
            "(or names them otherwise): this architecture is not supported."
        )


def load_decoder(
    checkpoint: Checkpoint,
    options: LoadOptions,
    family: str,
    model_class: type[PreTrainedModel],
    config: PretrainedConfig,
    key_mapping: dict[str, str] | None = None,
    tokenizer_class=None,
    trust: Mapping[str, str] | None = None,
    shifted: bool = False,
    defaults: dict[str, float | str] | None = None,
) -> DecoderTeacher:
    """A checkpoint in ``model_class`` without its causal mask; see the callers for the facts."""
    tokenizer = load_tokenizer(checkpoint, options.tokenizer, tokenizer_class)
    ids = special_ids(checkpoint, tokenizer, trust)
    config.is_causal = False  # honoured by sdpa and eager alike, and checked after loading
    model = load_stock(model_class, checkpoint, options, config, key_mapping)
    check_parts(model, checkpoint)
    return DecoderTeacher(model, checkpoint, tokenizer, ids, family, shifted, defaults)
