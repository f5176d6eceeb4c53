"""How many trials of a sweep run at a time, and what part of a GPU each takes. Starts nothing.

Trials are packed by memory: a small teacher leaves room on a GPU for others. What a
trial needs is in ``need.py``, and ``room.py`` says what the cluster has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workflows.sweep.need import Need

USABLE = 0.9  # share of a device's or node's memory that is planned for
MOST_ON_A_GPU = 8  # they share its compute, so more gain nothing
MOST_AT_ONCE = 32  # trials: each has two processes on the driver's node


@dataclass(frozen=True)
class Node:
    """What one node offers, or ``count`` such nodes."""

    cpus: float
    gpus: float
    memory: float  # bytes
    count: int = 1


@dataclass(frozen=True)
class Placement:
    at_once: int  # trials
    gpu_share: float  # of a GPU, per worker, where there are GPUs


def place(
    workers: int,
    trials: int,
    nodes: Sequence[Node],
    need: Need,
    *,
    on_gpu: bool,
    gpu_bytes: int | None = None,
    at_once: int = 0,
    cpu_share: float = 1.0,
) -> Placement:
    """As many trials of ``workers`` workers (0: all there are) as fit into ``nodes``, at least one.

    gpu_bytes: of the smallest GPU; unknown, or with several workers per trial, a worker
    takes a whole GPU, because NCCL refuses two workers of one training on one GPU.
    ``at_once`` is the user's number and taken as it is. ``cpu_share``: CPUs per worker.
    """
    together = on_a_gpu(need, gpu_bytes) if on_gpu and workers == 1 else 1
    slots = sum(node.count * slots_on(node, need, on_gpu, together, cpu_share) for node in nodes)
    fitting = max(1, min(trials, slots // workers, MOST_AT_ONCE)) if workers else 1
    # Rounded down to what Ray counts in, so that all of them fit into one GPU.
    return Placement(at_once or fitting, math.floor(1e4 / together) / 1e4)


def on_a_gpu(need: Need, gpu_bytes: int | None) -> int:
    """Workers that one GPU holds."""
    if gpu_bytes is None:
        return 1
    return max(1, min(MOST_ON_A_GPU, int(USABLE * gpu_bytes // need.device)))


def slots_on(node: Node, need: Need, on_gpu: bool, together: int, cpu_share: float) -> int:
    """Workers that a node holds."""
    devices = int(node.gpus) * together if on_gpu else int(node.cpus / cpu_share)
    if math.isinf(node.memory):  # not said
        return devices
    in_memory = int(max(0.0, USABLE * node.memory - need.shared) // need.host)
    # A node that is short of memory still gets one worker, which finds its own batch sizes.
    return min(devices, max(1, in_memory))
