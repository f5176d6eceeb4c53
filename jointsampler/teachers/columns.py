"""A teacher's own layers at a few columns, on the keys and values stored for all others.

Rerunning few columns is what the literature calls approximate KV caching for
diffusion language models: dKV-Cache (arXiv 2505.15781), Fast-dLLM's dual cache
(2505.22618), dLLM-Cache (2506.06295), d2Cache (2509.23094). This file holds the
mechanism. Which columns are rerun, and when, is decided in ``updates/``.

Every stock transformers class calls one registered attention function with the
queries, keys and values of a layer, after rotary embedding. The function here
delegates to transformers' sdpa. While a :class:`KeyValues` is active it also

- stores keys, values and mask of each attention call of a full pass, or
- on a rerun of C columns, writes their new keys and values over the stored ones
  and lets the C queries attend to all S keys under the stored mask's rows.

Calls are numbered in their order, not by module: ALBERT calls one shared layer
many times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..errors import UserError
from .keyvalues import KeyValues
from .protocol import Teacher

ATTENTION = "columns"  # the name under which transformers knows the function


@dataclass
class _Pass:
    """One forward pass that stores (``columns`` is None) or reruns ``columns`` [B, C]."""

    stored: KeyValues
    columns: Tensor | None = None
    calls: int = 0
    mask_rows: dict[int, Tensor] = field(default_factory=dict)  # by id of the stored mask

    def exchange(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """key and value [B, kv_heads, S or C, D] of one call -> those of all S columns, and a mask."""
        call, stored = self.calls, self.stored
        self.calls += 1
        if self.columns is None:
            if call < stored.queried:
                stored.keep_query(query, key, mask, scale)
            # Copies: the originals may be views of a larger projection.
            stored.keys.append(key.clone(memory_format=torch.contiguous_format))
            stored.values.append(value.clone(memory_format=torch.contiguous_format))
            stored.masks.append(mask)
            return key, value, mask
        if call >= len(stored):
            raise ValueError("A rerun needs the keys and values of a full pass; store them first.")
        index = self.columns[:, None, :, None].expand_as(key)
        stored.keys[call].scatter_(2, index, key)
        stored.values[call].scatter_(2, index, value)
        rows = self._rows(stored.masks[call])
        if stored.watch is not None:
            stored.watch(call, query * scale, stored.keys[call], rows)
        return stored.keys[call], stored.values[call], rows

    def _rows(self, mask: Tensor | None) -> Tensor | None:
        """[B or 1, h, S, S] -> [B, h, C, S]: the rows of the columns' queries."""
        if mask is None:
            return None
        if id(mask) not in self.mask_rows:
            batch, count = self.columns.shape
            _, heads, _, length = mask.shape
            index = self.columns[:, None, :, None].expand(batch, heads, count, length)
            self.mask_rows[id(mask)] = mask.expand(batch, -1, -1, -1).gather(2, index)
        return self.mask_rows[id(mask)]


_ACTIVE: ContextVar[_Pass | None] = ContextVar("jointsampler_columns", default=None)


@contextlib.contextmanager
def _active(current: _Pass) -> Iterator[None]:
    token = _ACTIVE.set(current)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


@contextlib.contextmanager
def storing(stored: KeyValues | None) -> Iterator[None]:
    """A full pass in this context fills ``stored``; with None nothing is stored."""
    if stored is None:
        yield
        return
    stored.clear()
    with _active(_Pass(stored)):
        yield


@contextlib.contextmanager
def rerunning(stored: KeyValues, columns: Tensor) -> Iterator[None]:
    """A pass in this context computes ``columns`` [B, C] int64 alone, on ``stored``."""
    with _active(_Pass(stored, columns)):
        yield


def exchange(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask to attend with in the active pass; unchanged if there is none.

    ``scale`` of the logits, by default 1 / sqrt(D).

    For networks of our own, once per attention call; stock classes call :func:`_attention`.
    """
    current = _ACTIVE.get()
    if current is None:
        return key, value, mask
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return current.exchange(query, key, value, mask, scale)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options,
) -> tuple[Tensor, None]:
    """transformers' sdpa on the active pass's keys, values and mask."""
    current = _ACTIVE.get()
    if current is not None:
        key, value, attention_mask = exchange(
            query, key, value, attention_mask, options.get("scaling")
        )
        if current.columns is not None:
            options["is_causal"] = False  # C queries are no prefix of the S keys
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


# Differences that rounding explains, in the Euclidean norm, as a fraction of the outputs' norm.
# Wrong columns differ by some tenths or more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.1}
_checked: WeakKeyDictionary[Teacher, str | None] = WeakKeyDictionary()


def check_rerun(teacher: Teacher) -> None:
    """UserError unless rerunning a few columns of an unchanged canvas reproduces the full pass.

    One tiny full pass and one rerun, milliseconds; the result is kept per teacher
    object. A teacher on the device ``meta`` has no weights and is not checked.
    """
    if torch.device(teacher.device).type == "meta":
        return
    if teacher not in _checked:
        _checked[teacher] = _complaint(teacher)
    complaint = _checked[teacher]
    if complaint is not None:
        raise UserError(
            f"Teacher {teacher.name!r} (family {teacher.family!r}) cannot rerun a few columns: "
            f"{complaint}. Use an update that needs no rerun (a trained sampler, or none)."
        )


def _complaint(teacher: Teacher) -> str | None:
    """Why the teacher cannot rerun columns; None if it can."""
    config = getattr(getattr(teacher, "model", None), "config", None)
    rotary = getattr(config, "rope_parameters", None) or {}
    kinds = [rotary, *(part for part in rotary.values() if isinstance(part, dict))]
    scaled = [k["rope_type"] for k in kinds if k.get("rope_type") in ("dynamic", "longrope")]
    if scaled:
        return f"its rotary angles depend on the length of the input (rope_type {scaled[0]!r})"
    ids, real, columns = _canvas(teacher)
    stored = KeyValues()
    with torch.inference_mode():
        full = teacher.reading(()).hidden(ids, real, stored)
        if not len(stored):
            return "its class computes attention outside transformers' attention interface"
        try:
            fresh = teacher.rerun(ids, columns, real, stored)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            return f"its class fails on an input of a few columns ({reason})"
    # Output c serves position c + shift, where aligned states have it.
    index = (columns + teacher.shift)[..., None].expand(-1, -1, full.shape[-1])
    expected = full.gather(1, index).float()
    difference = (fresh.float() - expected).norm() / expected.norm()
    if not difference <= _TOLERANCE.get(full.dtype, 1e-4):  # also where it is NaN
        return (
            "a rerun on an unchanged canvas differs from the full pass by "
            f"{difference.item():.1e} of its norm, so an output depends on more than the keys and "
            "values that attention reads"
        )
    return None


def _canvas(teacher: Teacher) -> tuple[Tensor, Tensor, Tensor]:
    """ids [2, S] int64 with masks, a padding mask [2, S], the first row padded, and 3 columns each."""
    length = min(12, teacher.max_length)
    allowed = torch.ones(teacher.vocab_size, dtype=torch.bool)
    allowed[teacher.forbidden_ids.cpu()] = False
    tokens = allowed.nonzero()[:, 0]
    ids = tokens[torch.arange(2 * length) * 7 % len(tokens)].view(2, length)
    ids[:, length // 2] = teacher.mask_id
    real = torch.ones_like(ids, dtype=torch.bool)
    padding = length // 4
    ids[0, :padding], real[0, :padding] = teacher.pad_id, False
    columns = torch.tensor([padding, length // 2, length - 2]).expand(2, -1)
    return tuple(x.to(teacher.device) for x in (ids, real, columns))


__all__ = [
    "ATTENTION",
    "KeyValues",
    "check_rerun",
    "exchange",
    "rerunning",
    "storing",
]
