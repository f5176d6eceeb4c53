"""The optimizer's state of ZeRO 1 and 2, saved by one number of workers and taken up by another.

DeepSpeed lays the parameters of a group end to end and gives each worker a partition. A
worker's Adam moments are flat like its partition. Its Muon momentum holds every matrix of
the partition whole, also one that reaches into the next worker's. Here the partitions of all
workers become one state per parameter, and that is cut again. Weights are left to DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WHOLE = "momentum_buffer"  # Muon's; the other tensors of a partition's state are flat like it
ByParameter = dict[str, dict[str, Any]]  # parameter -> name of a state -> flat tensor or number


def load_resharded(engine: Any, folder: Path) -> None:
    """Give ``engine`` (DeepSpeed's) the optimizer state in ``folder``, whoever saved it."""
    from deepspeed.utils.zero_to_fp32 import get_optim_files  # sorted by worker

    saved = [
        torch.load(file, map_location="cpu", weights_only=False)["optimizer_state_dict"]
        for file in get_optim_files(str(folder))
    ]
    zero = engine.optimizer
    sizes = {name: p.numel() for name, p in engine.module.named_parameters()}
    merged = merge(
        [(one["param_slice_mappings"], one["base_optimizer_state"]) for one in saved], sizes
    )
    state = {
        group: cut(merged, slices_of(zero, group), part.numel())
        for group, part in enumerate(zero.single_partition_of_fp32_groups)
    }
    groups = saved[0]["base_optimizer_state"]["param_groups"]
    own = saved[0] | {"base_optimizer_state": {"state": state, "param_groups": groups}}
    zero.load_state_dict([own] * torch.distributed.get_world_size(), load_from_fp32_weights=False)


def merge(
    partitions: list[tuple[list[Mapping[str, Any]], Mapping[str, Any]]], sizes: Mapping[str, int]
) -> ByParameter:
    """The state of every parameter, from all workers' (slices of each group, optimizer state).

    A slice has ``start`` and ``numel``, of a parameter's piece in the flat partition.
    ``sizes``: numbers of each parameter.
    """
    pieces: dict[str, dict[str, list[Any]]] = {}
    for groups, optimizer in partitions:
        for group, slices in enumerate(groups):
            whole = 0
            for name, piece in slices.items():
                for key, value in optimizer["state"].get(group, {}).items():
                    if torch.is_tensor(value) and value.ndim:
                        start, size = piece.start, piece.numel
                        if key == WHOLE:
                            start, size = whole, sizes[name]
                        value = value[start : start + size]
                    pieces.setdefault(name, {}).setdefault(key, []).append(value)
                whole += sizes[name]
    return {
        name: {key: joined(key, values) for key, values in states.items()}
        for name, states in pieces.items()
    }


def joined(key: str, values: list[Any]) -> Any:
    """The pieces of all workers, in their order; numbers and whole matrices are the same on each."""
    flat = key != WHOLE and torch.is_tensor(values[0]) and values[0].ndim
    return torch.cat(values) if flat else values[0]


def slices_of(zero: Any, group: int) -> list[tuple[str, int, int, int]]:
    """(parameter, first number of it, place in the partition, numbers) of this worker's partition."""
    found = []
    for parameter in zero.bit16_groups[group]:
        mapping = parameter._hp_mapping
        if mapping is not None:
            there = mapping.get_hp_fragment_address()
            first = mapping.lp_fragment_address.start
            found.append((zero.param_names[parameter], first, there.start, there.numel))
    return found


def cut(merged: ByParameter, slices: list[tuple[str, int, int, int]], size: int) -> dict[str, Any]:
    """The optimizer state of a partition of ``size`` numbers that holds ``slices``."""
    state: dict[str, Any] = {}
    for name, first, start, count in slices:
        for key, value in merged[name].items():
            if not (torch.is_tensor(value) and value.ndim):
                state[key] = value
            elif key == WHOLE:
                state[key] = torch.cat([state[key], value]) if key in state else value
            else:
                flat: Tensor = state.setdefault(key, value.new_zeros(size))
                flat[start : start + count] = value[first : first + count]
    return state
