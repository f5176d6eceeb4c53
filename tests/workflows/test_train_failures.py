"""Lost nodes do not use up train.max_failures, errors of the program do, and the user's end it at once."""

from __future__ import annotations

import logging
import queue
from logging.handlers import QueueHandler
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.train import ControllerError
from ray.train.v2._internal.callbacks.user_callback import UserCallbackHandler
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback_manager import CallbackManager
from ray.train.v2._internal.execution.worker_group.thread_runner import ThreadRunner

from jointsampler import UserError
from workflows.train import launch
from workflows.train.failures import LOST_IN_A_ROW, FailureCount

DIVERGED = UserError("Training diverged: the loss is nan")
CRASHED = RuntimeError("CUDA error: device-side assert triggered")
LOST = WorkerHealthCheckFailedError("failed", RayActorError(error_msg="The node has died."))
BROKEN = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed")
MEMORY = WorkerHealthCheckFailedError(
    "failed",
    RayActorError(error_msg="The worker was killed due to the node running low on memory."),
)


def fails(count: FailureCount, *errors: Exception) -> None:
    count.after_exception(None, dict(enumerate(errors)))


@pytest.fixture
def logged():
    """The records that Ray Train logs in this process."""
    logger, records = logging.getLogger("ray.train"), queue.SimpleQueue()
    handler, level = QueueHandler(records), logger.level
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_error_that_is_one_too_many_ends_the_training_as_it_is():
    count = FailureCount(2)
    fails(count, CRASHED)
    fails(count, CRASHED, BROKEN)
    with pytest.raises(RuntimeError, match="CUDA error"):
        fails(count, BROKEN, CRASHED)


def test_what_the_user_has_to_mend_ends_it_at_once_also_behind_a_broken_connection(logged):
    with pytest.raises(UserError, match="diverged"):
        fails(FailureCount(9), BROKEN, DIVERGED)


@pytest.mark.parametrize(("error", "times"), [(DIVERGED, 0), (CRASHED, 1)])
def test_of_a_users_error_ray_train_logs_nothing(logged, monkeypatch, error, times):
    """In the worker that raises it, and in the controller that ends the training for it."""

    def raises(plan):
        raise error

    monkeypatch.setattr(launch, "train_loop", raises)
    runner = ThreadRunner()
    runner.run(lambda: launch.attempt(None))
    runner._thread.join()
    assert logged.qsize() == times
    callbacks = CallbackManager([UserCallbackHandler([FailureCount(0)], None)])
    with pytest.raises(ControllerError):
        callbacks.invoke("after_worker_group_poll_status", SimpleNamespace(errors={0: error}))
    assert logged.qsize() == 2 * times


@pytest.mark.parametrize("loss", [(LOST,), (BROKEN, LOST), (BROKEN,)])
def test_losses_between_checkpoints_never_end_it(loss):
    count = FailureCount(0)
    for _ in range(5 * LOST_IN_A_ROW):
        fails(count, *loss)
        count.after_report(None, [{}], checkpoint="a checkpoint")


def test_losses_without_any_checkpoint_end_it_in_the_end():
    count = FailureCount(0)
    for _ in range(LOST_IN_A_ROW):
        fails(count, LOST)
        count.after_report(None, [{}], checkpoint=None)
    with pytest.raises(WorkerHealthCheckFailedError):
        fails(count, LOST)


def test_a_preemption_counts_for_nothing():
    reclaimed = RayActorError(preempted=True)
    count = FailureCount(0)
    for _ in range(5 * LOST_IN_A_ROW):
        fails(count, WorkerHealthCheckFailedError("failed", reclaimed))


@pytest.mark.parametrize("errors", [(MEMORY,), (BROKEN, MEMORY)])
def test_full_memory_is_the_programs_failure(errors):
    with pytest.raises(WorkerHealthCheckFailedError):
        fails(FailureCount(0), *errors)
