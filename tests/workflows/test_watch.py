"""A device that ends each of its processes costs its node, an item that does so ends the stage."""

from __future__ import annotations

import pytest

from workflows.watch import MOST, Place, Watch

A, B = Place("a", "10.0.0.1"), Place("b", "10.0.0.2")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    made = Watch(lambda: {"a", "b"}, Clock())
    made.attempt(1)
    return made


def dies(watch: Watch, actor: str, place: Place, item: int | None, times: int) -> str | None:
    """``actor`` starts at ``place`` and takes ``item``, ``times`` times, and starts once more."""
    for _ in range(times):
        watch.began(1, actor, place)
        if item is not None:
            watch.takes(1, actor, item)
    return watch.began(1, actor, place)


@pytest.mark.parametrize("item", [None, 7])
def test_three_processes_that_die_before_a_first_item_cost_the_node(watch, item):
    assert dies(watch, "x", A, item, MOST - 1) is None
    assert not watch.verdict().left_out
    if item is not None:
        watch.takes(1, "x", item)
    assert watch.began(1, "x", A) == "Node 10.0.0.1 is left out."
    assert set(watch.verdict().left_out) == {"a"} and watch.verdict().to_blame is None
    assert watch.began(1, "y", B) is None


def test_errors_of_loading_cost_the_node_as_deaths_do(watch):
    for actor in "xyz":
        watch.began(1, actor, A)
        watch.failed(1, actor, "no driver")
    assert "no driver" in watch.verdict().left_out["a"]


def test_a_process_that_did_something_clears_its_device(watch):
    for _ in range(4):
        assert dies(watch, "x", A, None, MOST - 1) is None
        watch.did(1, "x", rows=8, tokens=80, seconds=1)
    assert not watch.verdict().left_out


def test_one_broken_gpu_costs_its_node_though_the_others_work(watch):
    good, bad = (Place("a", "10.0.0.1", (index,)) for index in (0, 1))
    watch.began(1, "good", good)
    for _ in range(MOST):
        watch.began(1, "bad", bad)
        watch.did(1, "good", rows=8, tokens=80, seconds=1)
    watch.began(1, "bad", bad)
    assert "gpu 1" in watch.verdict().left_out["a"]


def test_an_item_that_ends_working_processes_is_to_blame_and_not_the_node(watch):
    watch.began(1, "x", A)
    for _ in range(MOST):
        watch.did(1, "x", rows=8, tokens=80, seconds=1)
        watch.takes(1, "x", 7)
        reason = watch.began(1, "x", A)
    assert reason == "Item 7 has ended too many processes."
    assert watch.verdict().to_blame == 7 and not watch.verdict().left_out


def test_an_item_costs_one_node_and_not_one_after_the_other(watch):
    dies(watch, "x", A, 7, MOST)
    dies(watch, "y", B, 7, MOST)
    assert set(watch.verdict().left_out) == {"a"} and watch.verdict().to_blame == 7


def test_a_node_that_is_gone_is_not_to_blame_and_neither_is_the_item(watch):
    watch._alive = lambda: {"b"}
    dies(watch, "x", A, 7, 9)
    assert not watch.verdict().left_out and watch.verdict().to_blame is None


def test_messages_of_an_earlier_attempt_count_for_nothing(watch):
    watch.began(1, "x", A)
    watch.attempt(2)
    assert watch.began(1, "x", A) == "A new attempt has begun."
    watch.failed(1, "x", "late")
    watch.did(1, "x", rows=1, tokens=1, seconds=1)
    assert not watch.lives() and watch.verdict().failures == 0


def test_a_line_says_rows_rate_and_what_an_actor_is_doing(watch):
    watch.began(1, "x", Place("a", "10.0.0.1", (3,)))
    watch.takes(1, "x", 7)
    watch.did(1, "x", rows=8, tokens=80, seconds=4)
    watch.takes(1, "x", 9)
    watch._clock.now = 90.0
    assert watch.lines("corpus") == [
        "corpus: actor 1 on 10.0.0.1, gpu 3: 8 rows, 20.0 tokens/s, item 9 for 90 s, silent for 90 s"
    ]
    watch.beat(1, "x")
    assert watch.lines("corpus")[0].endswith("20.0 tokens/s, item 9 for 90 s")


def test_a_process_that_ray_has_ended_for_want_of_items_has_no_line_and_no_rate(watch):
    for actor in "xyz":
        watch.began(1, actor, A)
    watch.takes(1, "x", 0)
    watch.did(1, "x", 8, 256, 4.0)  # and then nothing more of it
    watch.takes(1, "y", 1)  # in hand, and silent: it hangs
    watch._clock.now = 61.0
    watch.beat(1, "z")
    assert [life.number for life in watch.lives()] == [2, 3]
    lines = watch.lines("corpus")
    assert "item 1 for 61 s, silent for 61 s" in lines[0] and "loads for 61 s" in lines[1]
