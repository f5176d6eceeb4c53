"""A device whose memory ends: a teacher whose passes hold a number of rows and no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SmallDevice:
    """``teacher`` on a device that holds ``rows`` rows of a pass; ``asked`` records the rows of each."""

    def __init__(self, teacher: Any, rows: int, asked: list[int] | None = None):
        self._teacher, self._rows = teacher, rows
        self.asked: list[int] = [] if asked is None else asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def hidden(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._take(len(ids))
        return self._teacher.hidden(ids, *args, **kwargs)

    def rerun(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._take(len(ids))
        return self._teacher.rerun(ids, *args, **kwargs)

    def reading(self, layers: Any) -> SmallDevice:
        return SmallDevice(self._teacher.reading(layers), self._rows, self.asked)

    @property
    def refused(self) -> int:
        """Passes that did not fit."""
        return sum(rows > self._rows for rows in self.asked)

    def _take(self, rows: int) -> None:
        self.asked.append(rows)
        if rows > self._rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
