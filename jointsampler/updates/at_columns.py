"""The columns that an update recomputes, and the positions whose states they give.

Shared by refresh and hybrid. Which columns are best is decided in ``columns/``.
Families shifted by one predict position c + 1 from column c, and a row's first
column also serves its own position. ``S`` stands for no position of the canvas:
buffers have one slot more, into which such states fall.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..columns import ColumnPolicy, Seen
from ..errors import UserError
from ..sampler import at_columns
from ..teachers.keyvalues import KeyValues
from ..teachers.protocol import Teacher
from .protocol import Reveal


class AtColumns(Protocol):
    columns: int
    policy: ColumnPolicy


def checked_columns(count: int) -> int:
    if count < 1:
        raise UserError(f"An update needs at least 1 column, not {count}.")
    return count


def chosen(
    update: AtColumns,
    teacher: Teacher,
    reveal: Reveal,
    attention_mask: Tensor | None,
    stored: KeyValues,
    previous: Tensor | None,
) -> Tensor:
    """Columns [B, C] int64 that ``update`` recomputes after ``reveal``; ``previous`` as in ``Seen``.

    Those of the policy, and what of ``reveal.others`` is not among them in some row; a row
    may name a column twice.
    """
    if stored.queried:
        column = reveal.position[:, None]
        teacher.rerun(reveal.ids, column, attention_mask, stored, stored.queried)
    seen = Seen.of(
        reveal.position,
        reveal.masked,
        reveal.scores,
        teacher.shift,
        attention_mask,
        stored,
        reveal.start,
        previous,
    )
    columns = update.policy.choose(update.columns, seen)
    if reveal.others is None:
        return columns
    missing = (columns[:, None] != reveal.others[..., None]).all(-1)  # [B, P]
    return torch.cat([columns, reveal.others[:, missing.any(0)]], dim=1)


def with_slot(states: Tensor) -> Tensor:
    """A copy [B, S + 1, D] of states [B, S, D] with the slot for no position."""
    return F.pad(states, (0, 0, 0, 1))


def served(
    teacher: Teacher, columns: Tensor, outputs: Tensor, attention_mask: Tensor | None, size: int
) -> tuple[Tensor, Tensor]:
    """(positions [B, C or C + 1], their outputs [B, C or C + 1, H]) of raw outputs [B, C, H] at columns [B, C].

    size: positions S of the canvas; attention_mask: [B, S] bool, False on left padding.
    """
    if not teacher.shift:
        return columns, outputs
    # A row's first real column also predicts its own position, which no column precedes.
    first, after = torch.zeros_like(columns[:, :1]), columns + teacher.shift
    if attention_mask is not None:
        first = attention_mask.int().argmax(dim=1, keepdim=True)
        after = torch.where(attention_mask.gather(1, columns), after, size)
    is_first = columns == first
    own = torch.where(is_first.any(1, keepdim=True), first, size)
    its = at_columns(outputs, is_first.int().argmax(dim=1, keepdim=True))
    return torch.cat([after, own], dim=1), torch.cat([outputs, its], dim=1)


def write(buffer: Tensor, positions: Tensor, states: Tensor) -> None:
    """buffer [B, S + 1, D] at positions [B, C] becomes states [B, C, D], in place."""
    index = positions[..., None].expand_as(states)
    buffer.scatter_(1, index, states.to(buffer.dtype))
