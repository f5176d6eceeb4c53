"""Rows come as they are done, the driver ticks meanwhile, and only a device's errors are tried again."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import ray
from ray.data._internal.execution.no_progress_guard import NoProgressGuard
from ray.data.exceptions import ExecutionTimeoutError

from jointsampler import UserError
from workflows.cluster import Pool
from workflows.spread import go_on, is_final, set_up_data, ticking
from workflows.watch import Verdict


def test_it_ticks_while_no_row_comes_and_gives_every_row_once():
    twice, ticks = threading.Event(), []

    def rows():
        yield 1
        assert twice.wait(30)
        yield 2

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 2:
            twice.set()

    assert list(ticking(rows(), 0.01, tick)) == [1, 2]
    assert len(ticks) >= 2


def test_without_an_interval_it_never_ticks():
    assert list(ticking(iter([1, 2]), 0, lambda: 1 / 0)) == [1, 2]


def test_an_error_behind_a_row_is_raised_after_the_row():
    def rows():
        yield 1
        raise UserError("broken")

    got = ticking(rows(), 60, lambda: None)
    assert next(got) == 1
    with pytest.raises(UserError, match="broken"):
        next(got)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_what_the_user_has_to_mend_is_final_and_what_a_device_did_is_not():
    assert is_final(UserError("a wrong setting"))
    assert is_final(caused(UserError("shard 3"), OSError("disk full")))
    assert is_final(caused(UserError("shard 3"), UserError("does not fit")))
    assert not is_final(caused(UserError("shard 3"), RuntimeError("CUDA error")))
    assert not is_final(RuntimeError("CUDA error"))


@pytest.mark.parametrize(
    ("left_out", "alive", "goes_on"),
    [({}, {"a"}, True), ({}, set(), True), ({"a": "why"}, {"a", "b"}, True), ({"a": "why"}, {"a"}, False)],
)  # fmt: skip
def test_another_attempt_needs_a_node_that_was_not_left_out_or_waits_for_one(
    monkeypatch, left_out, alive, goes_on
):
    nodes = [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2}} for node in alive]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    verdict = Verdict(failures=1, left_out=left_out, last="no driver")
    with nullcontext() if goes_on else pytest.raises(UserError, match="has no node left"):
        go_on("corpus", verdict, set(), Pool(2, 0, 1), RuntimeError("lost"))


def test_a_stage_without_progress_for_31_minutes_survives(monkeypatch):
    """Ray Data's own guard, on a simulated clock, with its limit and with ours."""
    context = ray.data.DataContext()
    monkeypatch.setattr(ray.data.DataContext, "get_current", lambda: context)

    def waits(minutes: float) -> None:
        times = iter([0.0, 60 * minutes, 60 * minutes])
        guard = NoProgressGuard({}, context.execution_no_progress_timeout_s, clock=times.__next__)
        guard.check()

    waits(29)
    with pytest.raises(ExecutionTimeoutError):
        waits(31)
    set_up_data()
    waits(31)
