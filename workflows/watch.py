"""The record of a stage's processes: what each is doing, and where processes ended without a result.

A node with a broken GPU or a wrong driver ends every process that starts on it, and
Ray starts the next one there, because that node is free. After ``MOST`` processes in
a row that ended on one device before they finished an item, the whole node is left
out. An item that ends its process wherever it is done is an error of the program.

There is no Ray in this file: ``spread.py`` keeps a :class:`Watch` in an actor and acts
on what it says.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

MOST = 3  # processes that may end in a row on one device, or at one item
SILENT_S = 60.0  # without a sign of life; a process gives six in that time


@dataclass(frozen=True)
class Place:
    """Where a process runs. A device is a node and its GPUs; without GPUs, the node."""

    node: str  # Ray's id
    address: str
    gpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.address + "".join(f", gpu {index}" for index in self.gpus)


@dataclass
class Life:
    """One process: its work since it was started. Times are the watch's own, in seconds."""

    place: Place
    number: int  # of the actor, from 1
    beat: float  # last sign of life
    since: float  # begin of the item, or of loading
    item: int | None = None
    items: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0  # in finished items

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def released(self, now: float) -> bool:
        """Whether Ray Data has ended the process because no item was left for it, which it does not say."""
        return self.items > 0 and self.item is None and now - self.beat > SILENT_S


@dataclass
class Verdict:
    """What the driver has to know when an attempt has failed."""

    failures: int = 0  # of this attempt's processes
    left_out: dict[str, str] = field(default_factory=dict)  # node -> its sentence, in order
    to_blame: int | None = None  # the item that ends its processes
    last: str = ""  # the last error


class Watch:
    """Counts the ends of processes. ``alive()`` gives the ids of the nodes that are there.

    An attempt is one execution of the missing items. Messages of processes of an
    earlier attempt, which end slowly, are ignored.
    """

    def __init__(
        self, alive: Callable[[], set[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._alive, self._clock = alive, clock
        self._attempt = 0
        self._lives: dict[str, Life] = {}  # by actor
        self._barren: Counter[Place] = Counter()  # ends in a row before a first item
        self._ends: dict[int, Counter[str]] = defaultdict(Counter)  # item -> node -> ends
        self._verdict = Verdict()

    def attempt(self, number: int) -> None:
        """A new attempt begins; what is known of nodes and items stays."""
        self._attempt, self._lives = number, {}
        self._verdict.failures = 0

    def began(self, attempt: int, actor: str, place: Place) -> str | None:
        """A process of ``actor`` has started; the reason why it must end, if there is one.

        An actor that had a process before lost it: Ray starts another.
        """
        if attempt != self._attempt:
            return "A new attempt has begun."
        before = self._lives.get(actor)
        if before is not None:
            self._ended(before, "the process died")
        if self._verdict.to_blame is not None:
            return f"Item {self._verdict.to_blame} has ended too many processes."
        if place.node in self._verdict.left_out:
            return f"Node {place.address} is left out."
        now = self._clock()
        number = before.number if before is not None else len(self._lives) + 1
        self._lives[actor] = Life(place, number, now, now)
        return None

    def failed(self, attempt: int, actor: str, error: str) -> None:
        """The process of ``actor`` ends by an error of loading or of its item."""
        if attempt == self._attempt and actor in self._lives:
            self._ended(self._lives.pop(actor), error)

    def takes(self, attempt: int, actor: str, item: int) -> None:
        if (life := self._life(attempt, actor)) is not None:
            life.item, life.since = item, self._clock()

    def did(self, attempt: int, actor: str, rows: int, tokens: int, seconds: float) -> None:
        if (life := self._life(attempt, actor)) is not None:
            self._barren.pop(life.place, None)
            life.item, life.since = None, self._clock()
            life.items += 1
            life.rows, life.tokens = life.rows + rows, life.tokens + tokens
            life.seconds += seconds

    def beat(self, attempt: int, actor: str) -> None:
        self._life(attempt, actor)

    def verdict(self) -> Verdict:
        return self._verdict

    def lives(self) -> list[Life]:
        """The processes of this attempt that are at work or wait for it, by number."""
        now = self._clock()
        here = [life for life in self._lives.values() if not life.released(now)]
        return sorted(here, key=lambda life: life.number)

    def lines(self, stage: str) -> list[str]:
        """One line for each process."""
        return [_line(stage, life, self._clock()) for life in self.lives()]

    def _life(self, attempt: int, actor: str) -> Life | None:
        life = self._lives.get(actor) if attempt == self._attempt else None
        if life is not None:
            life.beat = self._clock()
        return life

    def _ended(self, life: Life, why: str) -> None:
        verdict, node = self._verdict, life.place.node
        verdict.failures += 1
        verdict.last = why
        if node not in self._alive():  # lost or preempted with all that ran on it
            return
        if life.items == 0:
            self._barren[life.place] += 1
        ends = self._ends[life.item] if life.item is not None else Counter()
        ends[node] += 1
        others = any(count >= MOST for place, count in ends.items() if place != node)
        if self._barren[life.place] >= MOST and not (others and ends[node] >= MOST):
            verdict.left_out.setdefault(
                node,
                f"node {life.place} is left out: {MOST} processes in a row ended there before "
                f"they finished anything; the last error: {why}",
            )
        elif sum(n for place, n in ends.items() if place not in verdict.left_out) >= MOST:
            verdict.to_blame = life.item


def _line(stage: str, life: Life, now: float) -> str:
    doing = "loads" if life.items == 0 else "waits"
    if life.item is not None:
        doing = f"item {life.item}"
    silent = now - life.beat
    seen = f", silent for {silent:.0f} s" if silent > SILENT_S else ""
    return (
        f"{stage}: actor {life.number} on {life.place}: {life.rows} rows, "
        f"{life.tokens_per_second:.1f} tokens/s, {doing} for {now - life.since:.0f} s{seen}"
    )
