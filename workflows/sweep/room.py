"""What the cluster has for trials: its nodes, with those that it may still start, and its GPUs' memory."""

from __future__ import annotations

from typing import Any

import ray
import torch

from workflows.sweep.placement import Node

UNLIMITED = 64  # nodes counted of a group without a largest number


def nodes() -> list[Node]:
    """The cluster's nodes at its largest: the groups of its autoscaler, or the nodes that are there."""
    present = [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return startable(groups()) or present


def startable(node_groups: list[tuple[dict[str, float], int]]) -> list[Node]:
    """Of (resources, largest number, -1 for no limit) of the autoscaler's node groups."""
    counts = [(resources, UNLIMITED if most < 0 else most) for resources, most in node_groups]
    return [node_of(resources, count) for resources, count in counts if resources and count]


def node_of(resources: dict[str, Any], count: int = 1) -> Node:
    memory = resources.get("memory", float("inf"))
    return Node(resources.get("CPU", 0), resources.get("GPU", 0), memory, count)


def groups() -> list[tuple[dict[str, float], int]]:
    """(resources, largest number) of each node group that an autoscaler has announced."""
    from ray._private.state import state  # Ray Train and Ray Data read it there too

    config = state.get_cluster_config()
    if config is None:
        return []
    return [(dict(group.resources), group.max_count) for group in config.node_group_configs]


def gpu_bytes() -> int | None:
    """Memory of the smallest kind of GPU, measured on one of each; None where torch sees none.

    On a cluster that starts its GPUs on demand this waits for the first one.
    """
    kinds = [name for name in ray.cluster_resources() if name.startswith("accelerator_type:")]
    options = [{"resources": {kind: 0.001}} for kind in kinds] or [{}]
    measure = ray.remote(num_gpus=1)(total_memory)
    found = ray.get([measure.options(**option).remote() for option in options])
    return min((size for size in found if size), default=None)


def total_memory() -> int | None:
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
