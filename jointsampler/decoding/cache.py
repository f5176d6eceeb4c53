"""Keys and values of finished blocks, kept instead of computed again at every full pass.

For block decoding with a teacher whose stock class takes past keys and values.
Two kinds:

- ``prefix``: a pass over the whole canvas opens each block; its keys and values
  left of the block are kept until the block is finished. APPROXIMATE: attention
  goes both ways, so the prefix would have changed with the block (Fast-dLLM,
  arXiv 2505.22618, section 3.2).
- ``block_causal``: no position sees a later block, so finished blocks never
  change and their keys and values are EXACT. The distribution differs from that of
  the full canvas: it is right for teachers trained so.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..teachers.protocol import Teacher
from ..updates import Update
from .canvas import Canvas

CacheKind = Literal["none", "prefix", "block_causal"]
KINDS = ("none", "prefix", "block_causal")


def check_cache(
    teacher: Teacher, kind: str, block_length: int | None, verified: bool, update: Update
) -> None:
    """UserError where a cache cannot work, or would break the promise of a method."""
    if kind not in KINDS:
        raise UserError(f"cache must be one of {', '.join(KINDS)}, not {kind!r}.")
    if kind == "none":
        return
    if block_length is None:
        raise UserError(f"cache={kind!r} keeps finished blocks, so it needs a block_length.")
    if not hasattr(teacher, "outputs_after"):
        raise UserError(
            f"Teacher {teacher.name!r} (family {teacher.family!r}) takes no past keys and values: "
            "use cache='none'."
        )
    if verified and kind == "prefix":
        raise UserError(
            "cache='prefix' is an approximation and would make a lossless method inexact: "
            "use cache='none' or, for a teacher trained so, cache='block_causal'."
        )
    if update.keeps != "nothing":
        raise UserError(
            f"Update {update.name!r} keeps the keys and values of the whole canvas itself: "
            "use cache='none'."
        )


def cached(teacher: Teacher, canvas: Canvas, kind: CacheKind, begin: int, end: int) -> Teacher:
    """The teacher with its cache for the block of response positions ``begin`` to ``end``."""
    if kind == "none":
        return teacher
    first, last = canvas.start + begin, min(canvas.start + end, canvas.ids.shape[1])
    if kind == "prefix":
        return PrefixView(teacher, first)
    previous = getattr(canvas, "block_causal", None)
    view = BlockCausalView(teacher, canvas, first, last, previous)
    canvas.block_causal = view
    return view


def of_rows(teacher: Teacher, rows: Tensor) -> Teacher:
    """The teacher for a batch of ``rows`` [N] int64 of the canvas, repeats allowed.

    Several prefixes of one row share its finished blocks, if those are kept.
    """
    return teacher.of_rows(rows) if isinstance(teacher, BlockCausalView) else teacher


def visible(teacher: Teacher, canvas: Canvas) -> Tensor | None:
    """[B, P + L] bool: the columns that an update may read now; None if all are real and visible."""
    end = getattr(teacher, "visible_columns", None)
    if end is None or end == canvas.ids.shape[1]:
        return canvas.attention_mask
    shown = torch.arange(canvas.ids.shape[1], device=canvas.ids.device) < end
    return shown.expand_as(canvas.ids) & _real(canvas)


def _real(canvas: Canvas) -> Tensor:
    if canvas.attention_mask is None:
        return torch.ones_like(canvas.ids, dtype=torch.bool)
    return canvas.attention_mask


class _View:
    """A teacher with another :meth:`hidden`."""

    def __init__(self, teacher: Teacher):
        self._teacher = teacher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)


class PrefixView(_View):
    """The first pass is whole; later ones start at column ``first`` and reuse its keys and values."""

    def __init__(self, teacher: Teacher, first: int):
        super().__init__(teacher)
        self._first = first
        self._past: Any = None
        self._before: Tensor | None = None  # [B, first, H] outputs

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask
        if self._past is None:
            raw, self._past = self._teacher.outputs_after(None, ids, real)
            self._before = raw[:, : self._first]
        else:
            tail, _ = self._teacher.outputs_after(self._past, ids[:, self._first :], real)
            raw = torch.cat([self._before, tail], dim=1)
        self._past.crop(self._first - ids.shape[1])
        return self._teacher.align(raw, attention_mask)


class BlockCausalView(_View):
    """Blocks before this one are finished, blocks after it are hidden."""

    def __init__(
        self,
        teacher: Teacher,
        canvas: Canvas,
        first: int,
        last: int,
        previous: BlockCausalView | None,
    ):
        super().__init__(teacher)
        self._first, self.visible_columns = first, last
        # Keep the part before this block: the prompt, or the block that has just been finished.
        self._past, self._before, begin = None, None, 0
        if previous is not None:
            self._past, self._before, begin = previous._past, previous._before, previous._first
        if first > begin:
            unended = canvas.unfinished()
            canvas.teacher_passes += unended  # a pass over the finished block
            canvas.teacher_rows += unended
            closed, self._past = teacher.outputs_after(
                self._past, canvas.ids[:, begin:first], _real(canvas)[:, :first]
            )
            self._before = closed if begin == 0 else torch.cat([self._before, closed], dim=1)

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        last = self.visible_columns
        real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask
        raw, past = self._teacher.outputs_after(
            self._past, ids[:, self._first : last], real[:, :last]
        )
        if self._past is not None:
            past.crop(self._first - last)
            raw = torch.cat([self._before, raw], dim=1)
        hidden = self._teacher.align(raw, real[:, :last])
        unseen = hidden.new_zeros(len(ids), ids.shape[1] - last, hidden.shape[-1])
        return torch.cat([hidden, unseen], dim=1)

    def of_rows(self, rows: Tensor) -> BlockCausalView:
        """The view of ``rows`` [N] int64 of this one's batch, repeats allowed."""
        view = BlockCausalView.__new__(BlockCausalView)
        vars(view).update(vars(self))
        if self._past is not None:
            view._past = copy.deepcopy(self._past)
            view._past.batch_select_indices(rows)
            view._before = self._before[rows]
        return view
