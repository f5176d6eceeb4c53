"""A training's memory: whether the teacher states that it keeps fit into a node, and steps that do not.

The parts of a step that fit into a device are found in ``jointsampler/distill/parts.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from jointsampler.config import TrainConfig
from jointsampler.distill import TeacherStates
from jointsampler.errors import UserError
from jointsampler.memory import out_of_memory

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # (folder, limit, used) of the container's memory, cgroup versions 2 and 1
    (".", "memory.max", "memory.current"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def free_memory() -> int:
    """Bytes that this process may still use: the node's, or its container's where that is less."""
    free = psutil.virtual_memory().available
    for folder, limit, used in _LIMITS:
        here = _CGROUP / folder
        try:
            most, taken = (int((here / name).read_text()) for name in (limit, used))
            free = min(free, most - taken + _cached(here / "memory.stat"))
        except (OSError, ValueError):  # another cgroup version, or no limit
            continue
    return free


def _cached(statistics: Path) -> int:
    """Bytes that count as used by a container but hold files nobody reads now: the kernel gives them back."""
    found = dict(line.split() for line in statistics.read_text().splitlines())
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))


def check_memory(
    states: TeacherStates, rows: range, settings: TrainConfig, workers_here: int
) -> None:
    """UserError where the states that ``workers_here`` workers keep would fill the node's memory.

    Other trials of a sweep on the same node are not counted.
    """
    wanted = min(states.budget, sum(map(states.row_bytes, rows))) * workers_here
    free = free_memory()
    if wanted > 0.9 * free:
        raise UserError(
            f"train.cache_gib={settings.cache_gib:g} would keep {wanted / 2**30:.1f} GiB of teacher states "
            f"on a node that has {free / 2**30:.1f} GiB left, for {workers_here} workers: lower it (the "
            "teacher computes rows that are not kept again) or train on fewer rows (train.rows)."
        )


@contextmanager
def memory_in_one_sentence(settings: TrainConfig) -> Iterator[None]:
    """UserError where a step runs out of the device's memory: it cannot be halved in the engine."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"A training step in {settings.accumulate} parts ran out of the device's memory, although it "
            f"fitted when the training began: set train.accumulate={2 * settings.accumulate} or more, or "
            "leave the device to this run alone."
        ) from error
