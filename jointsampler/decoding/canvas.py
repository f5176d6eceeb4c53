"""The canvas: tokens, masks, reveal order and accounting of one batch of rows.

Prompts are padded on the left, so all responses occupy the same columns. Every
change is a masked write on the device, without a host synchronisation. Which
position and token to reveal is decided in ``round.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..teachers.protocol import Teacher


def left_pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """(ids [B, P] int64, real [B, P] bool) of token lists padded on the left."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    real = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        if len(prompt):
            ids[row, width - len(prompt) :] = torch.as_tensor(prompt, dtype=torch.long)
            real[row, width - len(prompt) :] = True
    return ids, real


# What the canvas holds of every row: what it was given, and what decoding writes.
_GIVEN = ("rows", "attention_mask")
_WRITTEN = (
    *("ids", "masked", "order", "round", "revealed", "_ended"),
    *("teacher_passes", "teacher_rows", "update_passes", "round_ends"),
)


class Canvas:
    """B rows: a prompt of up to P tokens and a response of L positions, all masked at first."""

    def __init__(
        self, teacher: Teacher, prompts: Sequence[Sequence[int]], rows: Tensor, length: int
    ):
        ids, real = left_pad(prompts, teacher.pad_id)
        batch = len(prompts)
        device = teacher.device
        blank = torch.full((batch, length), teacher.mask_id)
        self.length, self.start = length, ids.shape[1]
        self.mask_id = teacher.mask_id
        self.ids = torch.cat([ids, blank], dim=1).to(device)  # [B, P + L]
        full = torch.cat([real, torch.ones(batch, length, dtype=torch.bool)], dim=1)
        # Without padding no mask is passed at all: the attention kernels are faster so.
        self.attention_mask = None if bool(full.all()) else full.to(device)
        self.rows = rows.to(device)  # [B] row ids
        self.masked = torch.ones(batch, length, dtype=torch.bool, device=device)
        # Row b's r-th reveal was response position order[b, r], in round[b, r].
        self.order = torch.full((batch, length), -1, dtype=torch.long, device=device)
        self.round = torch.full((batch, length), -1, dtype=torch.long, device=device)

        def counts(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, dtype=torch.long, device=device)

        self.revealed = counts()
        self.teacher_passes = counts()  # a verification is one, whatever its number of prefixes
        self.teacher_rows = counts()  # sequences through the teacher: every prefix counts
        self.update_passes = counts()
        self.round_ends = counts(3)  # verified rounds that ended full, by order, by rejection
        # Only positions of the open stretch are revealed: all of them, or one block at a time.
        self._open = torch.ones(length, dtype=torch.bool, device=device)
        self._ended = torch.zeros(batch, dtype=torch.bool, device=device)
        self._each = torch.arange(batch, device=device)

    def select(self, rows: Tensor) -> Canvas:
        """A canvas with copies of ``rows`` [N] int64 alone."""
        other = copy.copy(self)
        for name in (*_GIVEN, *_WRITTEN):
            value = getattr(self, name)
            setattr(other, name, None if value is None else value[rows])
        other._each = torch.arange(len(rows), device=rows.device)
        return other

    def put(self, rows: Tensor, other: Canvas) -> None:
        """Write back what ``other``, the canvas of ``rows`` [N] int64, has become."""
        for name in _WRITTEN:
            getattr(self, name)[rows] = getattr(other, name)

    def open(self, begin: int, end: int) -> None:
        """Let response positions ``begin`` to ``end`` be revealed, and no others."""
        self._open[:] = False
        self._open[begin:end] = True

    @property
    def candidates(self) -> Tensor:
        """[B, L] bool: the masked positions that may be revealed now."""
        return self.masked & self._open

    def candidates_on_canvas(self) -> Tensor:
        """[B, P + L] bool: the same in canvas positions."""
        return F.pad(self.candidates, (self.start, 0), value=False)

    def unfinished(self) -> Tensor:
        """[B] bool: rows with a position to reveal."""
        return self.candidates.any(1) & ~self._ended

    def end_rows(self, end_ids: Tensor) -> None:
        """Finish the rows whose first end token has nothing masked before it."""
        response = self.response(self.ids)
        places = torch.arange(self.length, device=self.ids.device)
        is_end = torch.isin(response, end_ids)
        first = torch.where(is_end, places, self.length).amin(1)
        before = self.masked & (places < first[:, None])
        self._ended |= (first < self.length) & ~before.any(1)

    def fill_tails(self, fill_id: int) -> None:
        """Write ``fill_id`` where a finished row is still masked; no reveal is recorded for it."""
        response = self.response(self.ids)
        response.copy_(torch.where(self.masked & self._ended[:, None], fill_id, response))

    def response(self, x: Tensor) -> Tensor:
        """The response columns of x [B, P + L, ...]."""
        return x[:, self.start :]

    def reveal(self, position: Tensor, token: Tensor, active: Tensor) -> None:
        """Write token [B] at response position [B], in the rows where active [B] is True."""
        column = self.start + position
        self.ids[self._each, column] = torch.where(active, token, self.ids[self._each, column])
        self.masked[self._each, position] &= ~active
        # An inactive row writes back what it read; its slot may be out of range, hence the clamp.
        slot = self.revealed.clamp_max(self.length - 1)
        for record, value in ((self.order, position), (self.round, self.teacher_passes - 1)):
            record[self._each, slot] = torch.where(active, value, record[self._each, slot])
        self.revealed += active

    def rollback(self, revealed: Tensor) -> None:
        """Mask again every reveal from the ``revealed`` [B]-th on."""
        slots = torch.arange(self.length, device=self.ids.device)
        undo = (slots >= revealed[:, None]) & (slots < self.revealed[:, None])  # [B, L] by slot
        position = self.order.clamp_min(0)
        # Slots hold distinct positions, so adding up marks each position once.
        marks = torch.zeros_like(self.order).scatter_add(1, position, undo.long()) > 0
        self.masked |= marks
        self.response(self.ids)[marks] = self.mask_id
        self.order[undo] = -1
        self.round[undo] = -1
        self.revealed = torch.minimum(self.revealed, revealed)
