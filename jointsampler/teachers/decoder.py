"""Teachers in a stock transformers decoder without its causal mask.

Covers every family whose network is a stock causal LM class. What differs
between those families (tensor names, ids, a shift of the outputs) is in ``families/``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import UserError
from . import layer_outputs
from .checkpoint import Checkpoint
from .columns import KeyValues, rerunning, storing
from .options import LoadOptions
from .protocol import LayerShape, position_ids, scaled_layer
from .tokenization import (
    SpecialIds,
    load_tokenizer,
    special_ids,
    stated_tokens,
    suppression,
)
from .weights import load_stock


@dataclass(frozen=True)
class DecoderFamily:
    """The facts of one family of decoders; see the files in ``families/`` for their sources."""

    name: str
    model_class: type[PreTrainedModel]
    shift: int = 0  # output i predicts token i + shift
    key_mapping: Mapping[str, str] = field(
        default_factory=dict
    )  # checkpoint's names -> stock names
    tokenizer_class: type[PreTrainedTokenizerBase] | None = None  # for vocabulary files alone
    trust: Mapping[str, str] = field(default_factory=dict)  # see tokenization.special_ids


class Source(Protocol):
    """What a teacher repeats about the origin of its weights: a Checkpoint, or random ones."""

    name: str
    fingerprint: str


class DecoderTeacher:
    """See :class:`jointsampler.teachers.protocol.Teacher` for methods and shapes."""

    def __init__(
        self,
        model: PreTrainedModel,
        checkpoint: Source,
        tokenizer: PreTrainedTokenizerBase | Callable[[], PreTrainedTokenizerBase] | None,
        ids: SpecialIds,
        family: DecoderFamily,
        defaults: Mapping[str, float | str],
    ):
        """``tokenizer`` may be a function that loads it: it is called on first use."""
        config = model.config
        self.model = model.eval().requires_grad_(False)
        self.name, self.fingerprint = checkpoint.name, checkpoint.fingerprint
        self.family, self.shift = family.name, family.shift
        self._tokenizer, self.generation_defaults = tokenizer, defaults
        self.mask_id, self.bos_id, self.eos_id, self.pad_id = ids.mask, ids.bos, ids.eos, ids.pad
        self.end_ids = ids.ends
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.layers = config.num_hidden_layers
        self.read_layers: tuple[int, ...] = ()
        layer_outputs.watch(self.model.model.layers)
        self.max_length = config.max_position_embeddings
        self.device = model.device
        loaded = isinstance(tokenizer, PreTrainedTokenizerBase)
        known = len(tokenizer) if loaded else self.vocab_size
        self.forbidden_ids = ids.forbidden(self.vocab_size, known)
        self._suppress = suppression(self.forbidden_ids, self.vocab_size, self.device)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        if not isinstance(self._tokenizer, PreTrainedTokenizerBase | None):
            self._tokenizer = self._tokenizer()
        return self._tokenizer

    def hidden(
        self, ids: Tensor, attention_mask: Tensor | None = None, stored: KeyValues | None = None
    ) -> Tensor:
        extra = {}
        if attention_mask is not None:
            extra = {
                "attention_mask": attention_mask.long(),
                "position_ids": position_ids(attention_mask),
            }
        with storing(stored):
            raw = self._outputs(input_ids=ids, use_cache=False, **extra)
        return self.align(raw, attention_mask)

    def rerun(
        self,
        ids: Tensor,
        columns: Tensor,
        attention_mask: Tensor | None,
        stored: KeyValues,
        depth: int | None = None,
    ) -> Tensor:
        positions = columns
        if attention_mask is not None:
            positions = position_ids(attention_mask).gather(1, columns)

        def run() -> Tensor:
            return self.model.model(
                input_ids=ids.gather(1, columns),
                position_ids=positions,
                # The stored masks apply. A mask of four dimensions keeps the class from making one.
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
                use_cache=False,
            ).last_hidden_state

        with rerunning(stored, columns):
            return run() if depth is None else layer_outputs.lowest(depth, run)

    def reading(self, layers: Sequence[int]) -> DecoderTeacher:
        other = copy.copy(self)
        other.read_layers = tuple(layers)
        return other

    def _outputs(self, **inputs: Any) -> Tensor:
        """[B, S, (1 + F) H], not aligned."""
        with layer_outputs.noting(self.read_layers) as noted:
            final = self.model.model(**inputs).last_hidden_state
        return torch.cat([final, *noted.values()], dim=-1) if noted else final

    def finish(self, outputs: Tensor) -> Tensor:
        # States kept by a training are float32 also where the norm is bfloat16.
        return self.model.model.norm(outputs.to(self.model.dtype))

    def align(self, raw: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Raw outputs [B, S, ...], from the first column on -> states, the one at i for token i."""
        if not self.shift:
            return raw
        # Output i predicts token i + 1, so no output predicts a row's first token. Its position
        # keeps its own output, behind padding too: samplers read every position, and the
        # output of a pad would depend on the padding.
        aligned = torch.cat([raw[:, :1], raw[:, :-1]], dim=1)
        if attention_mask is None:
            return aligned
        first = attention_mask.long().cumsum(-1) == 1
        return torch.where(first[..., None], raw, aligned)

    def outputs_after(
        self, past: DynamicCache | None, ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, DynamicCache]:
        """Raw outputs [B, S, (1 + F) H] of ids [B, S] that follow ``past``; ``past`` grows by them.

        attention_mask: [B, past + S] bool. Every new position attends to the past and to all new ones.
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
        # A sampler's states can be float32 while the head is bfloat16: the head's dtype decides.
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
    """A checkpoint's ``config.json`` read by a stock class; keys that name remote code are dropped."""
    foreign = {"auto_map", "architectures", "model_type", "torch_dtype", "dtype"}
    return config_class.from_dict(
        {key: value for key, value in checkpoint.config.items() if key not in foreign}
    )


def check_parts(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """UserError unless the class is a body ``model`` and a linear ``lm_head`` with nothing between.

    Some classes scale or cap their logits; body and head alone would compute other logits.
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
    family: DecoderFamily,
    config: PretrainedConfig,
    defaults: Mapping[str, float | str] | None = None,
) -> DecoderTeacher:
    """A checkpoint in the family's stock class, without its causal mask.

    ``defaults``: keywords of generate() that the checkpoint's authors use.
    """
    tokenizer: Any = partial(load_tokenizer, checkpoint, options.tokenizer, family.tokenizer_class)
    # A description needs no vocabulary, which is megabytes, where the special ids are stated without it.
    outlined = checkpoint.is_outline and options.tokenizer is None
    stated = stated_tokens(checkpoint) if outlined else None
    if stated is None:
        tokenizer = tokenizer()
    ids = special_ids(checkpoint, stated or tokenizer, family.trust)
    config.is_causal = False  # transformers' mask functions read it; load.py checks the effect
    model = load_stock(family.model_class, checkpoint, options, config, family.key_mapping)
    check_parts(model, checkpoint)
    return DecoderTeacher(model, checkpoint, tokenizer, ids, family, defaults or {})
