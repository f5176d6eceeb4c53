"""Find the largest batch that fits by halving it whenever the device runs out of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from .errors import UserError

T = TypeVar("T")


def largest_fitting(run: Callable[[int], T], batch_size: int) -> tuple[T, int]:
    """(``run(size)``, size) for the first of batch_size, batch_size / 2, ... that fits into memory.

    The result of ``run`` must not depend on the size; everything seeded by row
    meets this. Raises UserError where a batch of one does not fit.
    """
    while True:
        try:
            return run(batch_size), batch_size
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise UserError(
                    "One sequence alone does not fit into the device's memory: shorten it "
                    "(max_new_tokens), quantise the teacher, or take a larger device."
                ) from None
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
