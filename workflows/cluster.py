"""Which Ray cluster, and what it offers: connecting and counting, nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import ray

from jointsampler.errors import UserError

T = TypeVar("T")


def connect() -> None:
    """Join the cluster of a submitted job or of $RAY_ADDRESS, or start one on this machine."""
    if ray.is_initialized():
        return
    # Our own progress lines replace Ray Data's bars; its warnings stay.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    ray.init(log_to_driver=True, logging_level="warning")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False  # meaning never depends on order here


@dataclass(frozen=True)
class Pool:
    """A fixed pool of workers of one size."""

    size: int
    gpus: float  # per worker
    cpus: float

    @property
    def resources(self) -> dict[str, float]:
        return {"num_gpus": self.gpus} if self.gpus else {"num_cpus": self.cpus}


def pool(wanted: int) -> Pool:
    """``wanted`` workers, or (0) one per GPU of the cluster, or without GPUs one per CPU."""
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    if gpus:
        return Pool(wanted or gpus, 1, 1)
    size = wanted or max(1, cpus)
    return Pool(size, 0, 1)


def told(rows: Iterator[T]) -> Iterator[T]:
    """The rows of a Ray Data execution; a UserError raised in an actor arrives as itself."""
    try:
        yield from rows
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ray.exceptions.RayTaskError) and isinstance(
                cause.cause, UserError
            ):
                raise cause.cause from None
            cause = cause.__cause__ or cause.__context__
        raise
