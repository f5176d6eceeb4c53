"""Lost nodes do not use up train.max_failures; errors of the program do."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from jointsampler import UserError
from workflows.train.failures import LOST_IN_A_ROW, FailureCount

DIVERGED = UserError("Training diverged: the loss is nan")
LOST = WorkerHealthCheckFailedError("failed", RayActorError(error_msg="The node has died."))
BROKEN = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed")
MEMORY = WorkerHealthCheckFailedError(
    "failed",
    RayActorError(error_msg="The worker was killed due to the node running low on memory."),
)


def fails(count: FailureCount, *errors: Exception) -> None:
    count.after_exception(None, dict(enumerate(errors)))


def test_the_error_that_is_one_too_many_ends_the_training_as_it_is():
    count = FailureCount(2)
    fails(count, DIVERGED)
    fails(count, DIVERGED)
    with pytest.raises(UserError, match="diverged"):
        fails(count, DIVERGED)


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


def test_full_memory_is_the_programs_failure():
    with pytest.raises(WorkerHealthCheckFailedError):
        fails(FailureCount(0), MEMORY)
