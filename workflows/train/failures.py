"""Which failures end a training: the user's at once, the program's when they are too many, those of nodes never.

Ray Train's ``max_failures`` counts every failure of a worker except a preemption that
was announced. A node that vanishes, a process that is killed, and the broken
connections that the other workers then see would use it up. So Ray Train is told to
restart always, and :class:`FailureCount` ends the training: by a UserError of a worker
at once, because another attempt would meet it again, and by another error of the worker
itself once there are more than ``train.max_failures`` of them.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from jointsampler.errors import UserError

# Losses without a checkpoint in between: a program that crashes its process looks like a lost node.
LOST_IN_A_ROW = 10
# What the other workers see of a lost one; they may report it first.
_CONNECTION = re.compile(
    r"gloo/transport|connection (closed|reset|refused)|remote process exited|socket timeout"
    r"|broken pipe",
    re.IGNORECASE,
)
_MEMORY = "low on memory"  # of Ray's message where its monitor ended the worker


class FailureCount(UserCallback):
    """Counts the failures of one training; runs in Ray Train's controller, where its errors end a run."""

    def __init__(self, most: int):
        self.most = most
        self.failures = 0
        self.losses = 0  # since the last checkpoint

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        if checkpoint is not None:
            self.losses = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the error of a worker that may not be tried again."""
        errors = list(worker_exceptions.values())
        if any(is_preemption(error) for error in errors):
            return
        if (known := next((e for e in errors if isinstance(e, UserError)), None)) is not None:
            leave_the_sentence_alone()
            raise known
        own = [error for error in errors if not is_broken_connection(error)]
        if not own or any(is_lost(error) for error in own):
            self.losses += 1
            if self.losses > LOST_IN_A_ROW:
                raise errors[0]
            return
        self.failures += 1
        if self.failures > self.most:
            raise own[0]


def leave_the_sentence_alone() -> None:
    """Ray Train logs no traceback in this process any more: the driver prints the sentence of the error."""
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)


def is_preemption(error: Exception) -> bool:
    return bool(getattr(_inner(error), "preempted", False))


def is_lost(error: Exception) -> bool:
    """Whether the worker vanished; one that filled its node's memory was ended for that."""
    inner = _inner(error)
    gone = isinstance(inner, ray.exceptions.RayActorError | WorkerHealthCheckTimeoutError)
    return gone and _MEMORY not in str(inner)


def is_broken_connection(error: Exception) -> bool:
    """Whether the worker raised that it lost the connection to another one, whatever became of that."""
    died = isinstance(error, WorkerHealthCheckFailedError)  # and raised nothing
    return not died and bool(_CONNECTION.search(str(error)))


def _inner(error: Exception) -> Exception:
    """The failure behind a failed health check of a worker."""
    failed = isinstance(error, WorkerHealthCheckFailedError)
    return error.health_check_failure if failed else error
