"""Batch sizes found within a device's memory: the one mechanism of everything that works in batches.

A batch that does not fit is halved, and one that fits is doubled while there is
room. Work that was done is kept, and what a batch computes must not depend on its
size; everything seeded by row meets this. The size found is kept for later
processes on the same kind of device.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from . import kept
from .environment import device_name
from .errors import UserError
from .teachers.protocol import Teacher

T = TypeVar("T")
KIND = "batch-size"  # of what is kept
_USABLE = 0.9  # share of the free memory that a larger batch may be expected to take
# Memory that ran out inside of a library, or on a CPU, is a plain RuntimeError.
_TOLD = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: ")


@dataclass(frozen=True)
class Room:
    """Memory of a device before a batch."""

    used: int  # bytes of this process's tensors
    free: int  # bytes that nothing else holds

    @classmethod
    def before(cls, device: torch.device) -> Room | None:
        """Starts a new peak; None where memory cannot be measured, on anything but CUDA."""
        if device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(device)
        used, held = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        unused = min(torch.cuda.mem_get_info(device)[0], device_memory(device) - held)
        return cls(used, unused + held - used)

    def holds(self, times: float, peak: int) -> bool:
        """Whether ``times`` the batch that took ``peak`` bytes in all should fit."""
        return (peak - self.used) * times <= _USABLE * self.free


def device_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that this process may use: all, or its share where it has been given one."""
    share = torch.cuda.get_per_process_memory_fraction(device)
    return int(share * torch.cuda.get_device_properties(device).total_memory)


class BatchSize:
    """Rows of a batch for one purpose on one device.

    ``size`` is the next batch's; ``fits`` is the largest that this process has seen to fit.
    """

    def __init__(self, device: torch.device, start: int, most: int, key: kept.Key | None = None):
        """Begins with ``start`` rows, or with what is kept under ``key``; grows to ``most``.

        Where memory cannot be measured, it grows back to ``start`` alone.
        """
        self.device, self.key = device, key
        self.most = max(start, most) if device.type == "cuda" else start
        found = None if key is None else kept.recall(KIND, key)
        known = isinstance(found, int) and not isinstance(found, bool) and found >= 1
        self.size = min(found if known else start, self.most)
        self.fits = 0
        self._known = self.size  # to later processes
        self._too_large: int | None = None  # the smallest batch that did not fit

    @classmethod
    def of(
        cls, teacher: Teacher, length: int, purpose: str, start: int, most: int = 0
    ) -> BatchSize:
        """For work with ``teacher`` on rows of up to ``length`` tokens, prompt included.

        Remembered by the device. A size that was remembered is where the search begins.
        """
        probe = torch.full((1, 1), teacher.mask_id, device=teacher.device)
        key = {
            "device": device_name(teacher.device),
            "teacher": teacher.fingerprint,
            "dtype": str(teacher.embed(probe).dtype).removeprefix("torch."),
            "length": length,
            "purpose": purpose,
        }
        return cls(teacher.device, start, most, key)

    def over(self, count: int, run: Callable[[range], T]) -> list[T]:
        """``run(part)`` for parts of ``range(count)`` that fit, in order.

        A part that does not fit is run again in halves, so ``run`` must leave nothing
        behind where it fails. Raises UserError where a single row does not fit.
        """
        results: list[T] = []
        done = 0
        while done < count:
            part = range(done, min(done + self.size, count))
            room = Room.before(self.device) if self.size < self.most else None
            made = _attempt(run, part)
            if made is None:
                self._halve(len(part))
                continue
            results.append(made[0])
            done = part.stop
            self.fits = max(self.fits, len(part))
            if len(part) == self.size:
                self._fitted(room)
        return results

    def _halve(self, rows: int) -> None:
        """``rows`` did not fit."""
        if self.device.type == "cuda":
            gc.collect()  # tensors of the failed pass that refer to each other in a circle
            torch.cuda.empty_cache()
        if rows == 1:
            raise UserError(
                "One sequence alone does not fit into the device's memory: shorten it "
                "(max_new_tokens), quantise the teacher, or take a larger device."
            )
        self._too_large = min(rows, self._too_large or rows)
        self.size = rows // 2
        self.fits = min(self.fits, rows - 1)  # others may have taken memory since

    def _fitted(self, room: Room | None) -> None:
        """A whole batch did fit: remember its size, and double it while there is room."""
        if self.key is not None and self.size != self._known:
            kept.keep(KIND, self.key, self.size)
            self._known = self.size
        larger = min(2 * self.size, self.most)
        if larger == self.size or (self._too_large or larger + 1) <= larger:
            return
        if room is not None:
            peak = torch.cuda.max_memory_allocated(self.device)
            if not room.holds(larger / self.size, peak):
                return
        self.size = larger


def in_batches(size: int | BatchSize, count: int, run: Callable[[range], T]) -> list[T]:
    """``run(part)`` for parts of ``range(count)``, in order: of a fixed size, or of one that fits."""
    if isinstance(size, BatchSize):
        return size.over(count, run)
    return [run(range(begin, min(begin + size, count))) for begin in range(0, count, size)]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that a device's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or any(told in str(error) for told in _TOLD)


def _attempt(run: Callable[[range], T], part: range) -> tuple[T] | None:
    """What ``run`` returned; None where memory ran out.

    In a function of its own, because an exception's traceback holds the tensors of
    the pass that failed until its handler is left.
    """
    try:
        return (run(part),)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return None
