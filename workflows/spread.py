"""Spread the items of a stage over Ray Data's actors, and go on without nodes that fail them.

A stage gives a :class:`Worker`, which loads its models once and then does one item at a
time, and takes the rows that :func:`spread` yields. Ray Data starts a process that died
again and hands its item to it, on whichever node is free, which is usually the same
one. The processes therefore report to a watch (``watch.py``). Where it finds that a
node ends all of its processes, the execution is given up, and the missing items begin
again on the other nodes; items in hand are lost then, finished ones are not. What an
item is, and where its result is kept, is the stage's business.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jointsampler.errors import UserError
from workflows import cluster
from workflows.stage import Progress
from workflows.watch import Place, Verdict, Watch

T = TypeVar("T")
Row = dict[str, Any]
NODE_LABEL = "ray.io/node-id"  # Ray puts it on every node
BEAT_S = 10.0  # between two signs of life of a process


@dataclass(frozen=True)
class Done:
    """What an item was, as it reaches the driver."""

    result: str
    rows: int
    tokens: int  # that were sampled
    seconds: float  # of the work itself


class Worker(ABC):
    """A process of a stage. Without a watch it works alone, in a test or a notebook."""

    def __init__(self, plan: Any, watch: ActorHandle | None = None, attempt: int = 0):
        self.plan = plan
        self._post = Post(watch, attempt)
        with self._post.failures():
            self.load()

    @abstractmethod
    def load(self) -> None:
        """Load what every item needs."""

    @abstractmethod
    def do(self, index: int) -> Done:
        """Do item ``index``."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        rows = [self._row(index) for index in batch["index"].tolist()]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _row(self, index: int) -> Row:
        self._post.tell("takes", index)
        with self._post.failures():
            done = self.do(index)
        self._post.tell("did", done.rows, done.tokens, done.seconds)
        return {"index": index, **asdict(done)}


class ProcessEnds(Exception):
    """An error that another process, on another node, may not have."""


class Post:
    """The messages of one process to the watch; all of them do nothing without one."""

    def __init__(self, watch: ActorHandle | None, attempt: int):
        self.watch, self.attempt = watch, attempt
        if watch is None:
            return
        self.actor = ray.get_runtime_context().get_actor_id()
        reason = ray.get(watch.began.remote(attempt, self.actor, here()))
        if reason is not None:
            raise ProcessEnds(reason)
        threading.Thread(target=self._beat, daemon=True).start()

    def tell(self, what: str, *values: Any) -> None:
        if self.watch is not None:
            getattr(self.watch, what).remote(self.attempt, self.actor, *values)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Report an error of the body, unless it would be the same on every node."""
        try:
            yield
        except Exception as error:
            if self.watch is None or is_final(error):
                raise
            text = f"{type(error).__name__}: {error}"
            text = str(error) if isinstance(error, UserError) else text
            ray.get(self.watch.failed.remote(self.attempt, self.actor, text))
            raise ProcessEnds(text) from None  # its cause, a UserError, would be taken as final

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.tell("beat")


def is_final(error: Exception) -> bool:
    """Whether the user has to mend it: a setting, a file, a disk; not what a device or a driver did."""
    if not isinstance(error, UserError):
        return False
    cause = error.__cause__
    return cause is None or isinstance(cause, UserError | OSError)


def here() -> Place:
    gpus = tuple(int(i) for i in ray.get_gpu_ids() if str(i).isdigit())
    return Place(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), gpus)


def spread(
    worker: type[Worker],
    plan: Any,
    indices: Sequence[int],
    pool: cluster.Pool,
    progress: Progress,
    heartbeat_s: float = 60.0,
) -> Iterator[Row]:
    """The rows of the items ``indices``, one each, as they are done: their index and their :class:`Done`.

    Every ``heartbeat_s`` seconds (0: never) a line for each process is printed, and the
    sum of their rates goes to ``progress``. Raises the UserError of an item or of
    loading at once, and a UserError where no node is left or one item ends every process.
    """
    watch, missing, attempt = start_watch(), list(dict.fromkeys(indices)), 0
    while missing:
        attempt += 1
        ray.get(watch.attempt.remote(attempt))
        out = ray.get(watch.verdict.remote()).left_out
        rows = execution(worker, (plan, watch, attempt), missing, pool, list(out))
        try:
            for row in ticking(rows, heartbeat_s, lambda: heartbeat(watch, progress)):
                missing.remove(row["index"])
                yield row
        except Exception as error:  # Ray Data raises many types
            if (known := cluster.user_error_in(error)) is not None:
                raise known from None
            go_on(progress.stage, ray.get(watch.verdict.remote()), set(out), pool, error)
        else:
            if missing:
                raise RuntimeError(f"Stage {progress.stage} ended without items {missing}.")


def start_watch() -> ActorHandle:
    """A watch on the driver's own node: it lives as long as the driver."""
    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Watch).options(num_cpus=0, scheduling_strategy=strategy).remote(alive_nodes)


def alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def set_up_data() -> None:
    """Ray Data's settings, which a dataset takes over when it is made."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    data = ray.data.DataContext.get_current()
    data.enable_progress_bars = False  # the stages print lines of their own
    data.execution_options.preserve_order = False  # items carry their numbers
    # An item, or the wait for a spot node, may take longer than Ray's half hour: never give up.
    data.execution_no_progress_timeout_s = -1


def execution(
    worker: type[Worker],
    arguments: tuple[Any, ...],
    items: Sequence[int],
    pool: cluster.Pool,
    left_out: Sequence[str],
) -> Iterator[Row]:
    """Ray Data's execution of ``items``, on no node of ``left_out``."""
    set_up_data()
    work = [{"index": index} for index in items]
    return (
        ray.data.from_items(work, override_num_blocks=len(work))
        .map_batches(
            worker,
            fn_constructor_args=arguments,
            batch_size=1,
            # One item at a time: a second one in hand would wait behind a long first one,
            # while a process that loads more slowly finds none left.
            compute=ray.data.ActorPoolStrategy(
                size=min(pool.size, len(work)), max_tasks_in_flight_per_actor=1
            ),
            label_selector={NODE_LABEL: f"!in({','.join(left_out)})"} if left_out else None,
            **pool.resources,
        )
        .iter_rows()
    )


def go_on(
    stage: str, verdict: Verdict, before: set[str], pool: cluster.Pool, error: Exception
) -> None:
    """Return where another attempt may succeed, and say without which nodes; raise where none can."""
    if not verdict.failures:  # none of ours
        raise error
    if verdict.to_blame is not None:
        raise UserError(
            f"Stage {stage} cannot do item {verdict.to_blame}: the process that tries it ends each time. "
            f"The last error: {verdict.last}. What is complete stays."
        )
    for node, why in verdict.left_out.items():
        if node not in before:
            print(f"{stage}: {why}", flush=True)
    kind = "GPU" if pool.gpus else "CPU"
    able = {n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get(kind, 0) > 0}
    if verdict.left_out and not able - set(verdict.left_out):  # else Ray waits for nodes
        raise UserError(
            f"Stage {stage} has no node left: on each, processes ended again and again before they had "
            f"finished anything. The last error: {verdict.last}. What is complete stays."
        )
    print(f"{stage}: processes begin again with the missing items ({verdict.last})", flush=True)


def heartbeat(watch: ActorHandle, progress: Progress) -> None:
    lines, lives = ray.get([watch.lines.remote(progress.stage), watch.lives.remote()])
    for line in lines:
        print(line, flush=True)
    rates = [life.tokens_per_second for life in lives]
    progress.tell(tokens_per_second=sum(rates), actors=len(rates))


def ticking(rows: Iterator[T], every_s: float, tick: Callable[[], None]) -> Iterator[T]:
    """``rows``; ``tick()`` is called every ``every_s`` seconds (0: never), also while none comes.

    A thread waits for the rows, so that this one can be interrupted and can tick.
    """
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for row in rows:
                ready.put(("row", row))
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    threading.Thread(target=read, daemon=True).start()
    due = time.monotonic() + every_s
    while True:
        with suppress(queue.Empty):
            what, value = ready.get(timeout=max(0.0, due - time.monotonic()) if every_s else None)
            if what == "error":
                raise value
            if what == "end":
                return
            yield value
        if every_s and time.monotonic() >= due:
            due += every_s
            tick()
