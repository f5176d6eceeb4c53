"""The Ray cluster: connecting to it, counting its devices, and reading errors of its workers."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from jointsampler.errors import UserError

# Our own progress lines replace Ray Data's bars; its warnings stay.
ENVIRONMENT = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
_DISK = (errno.EROFS, errno.ENOSPC, errno.EACCES, errno.EDQUOT)
_LOW = "killed due to the node running low on memory"  # part of Ray's message
# A custom resource of nodes that are never removed: the drivers of trials are placed there.
DRIVERS = "train_driver"


def connect() -> None:
    """Join the cluster of a submitted job or of $RAY_ADDRESS, or start one on this machine."""
    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    context = ray.init(log_to_driver=True, logging_level="warning")
    if url := context.address_info.get("webui_url"):
        print(f"ray:    http://{url}", flush=True)


def named_resources() -> dict[str, float] | None:
    """The resources of the cluster of a submitted job or of $RAY_ADDRESS; None where neither is.

    Starts no cluster. Raises UserError where the named one is away.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if not ray.is_initialized():
        if not named or named.startswith("http"):  # the latter takes jobs alone
            return None
        try:
            connect()
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"No Ray cluster at $RAY_ADDRESS={named}: {reason}") from None
    return ray.cluster_resources()


def has(resource: str) -> bool:
    """Whether any node of the cluster offers ``resource``."""
    return ray.cluster_resources().get(resource, 0) > 0


@dataclass(frozen=True)
class Pool:
    """A fixed pool of workers of one size."""

    size: int
    gpus: float  # per worker
    cpus: float

    @property
    def resources(self) -> dict[str, float]:
        return {"num_gpus": self.gpus} if self.gpus else {"num_cpus": self.cpus}


def pool(wanted: int, device: str = "auto") -> Pool:
    """``wanted`` workers, or (0) one per GPU of the cluster, or without GPUs one per CPU.

    ``device="cuda"`` requests GPUs even where the cluster has none yet, because a
    cluster that scales from zero starts them on request. ``device="cpu"`` uses none.
    """
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    if device == "cuda" or (gpus and device == "auto"):
        return Pool(wanted or max(1, gpus), 1, 1)
    size = wanted or max(1, cpus)
    return Pool(size, 0, 1)


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise a UserError of a worker as that UserError; other errors as they are."""
    try:
        yield
    except Exception as error:  # Ray raises many types
        known = user_error_in(error)
        if known is None:
            raise
        raise known from None


def user_error_in(error: BaseException) -> UserError | None:
    """The UserError of a worker, which Ray wraps in tracebacks.

    If there is none: a UserError that names full memory or an unwritable disk, where
    that was the cause, else None.
    """
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        at = queue.pop()
        if at is None or at in seen:
            continue
        if isinstance(at, UserError) and not isinstance(at, ray.exceptions.RayError):
            return at
        seen.append(at)
        workers = getattr(at, "worker_failures", None) or {}
        queue += [at.__context__, at.__cause__, *workers.values()]
        queue += [getattr(at, name, None) for name in ("cause", "controller_failure")]
    # Ray Data passes on the text of an actor's error, but not the exception object.
    texts = re.findall(rf"^{UserError.__module__}\.UserError: (.+)$", str(error), re.MULTILINE)
    if texts:
        return UserError(texts[-1])
    for at in seen:  # Ray Train also writes files of its own beside the checkpoints
        if isinstance(at, OSError) and at.errno in _DISK:
            return UserError(
                f"The storage cannot be written ({at.strerror or at}). What is complete stays, and the "
                "same command goes on from it once there is room and permission."
            )
    # Ray's memory monitor ends workers before the kernel would.
    if any(isinstance(e, ray.exceptions.OutOfMemoryError) for e in seen) or _LOW in str(error):
        return UserError(
            "A node ran out of memory and its workers were ended: lower train.cache_gib, "
            "corpus.rows_per_file or the number of workers. What is complete is kept, and the same "
            "command goes on from it."
        )
    return None
