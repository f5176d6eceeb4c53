"""The optimizer's state of any number of workers becomes that of any other number."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from workflows.train.reshard import WHOLE, cut, merge

MATRICES = {"query": 60, "key": 35, "out": 7}  # numbers of each
VECTORS = {"norm": 5, "bias": 3}


def partitions(sizes: dict[str, int], world: int) -> tuple[int, list[list[tuple]]]:
    """(partition size, (parameter, first number, place, numbers) in each): end to end, padded at the end."""
    size = -(-sum(sizes.values()) // (2 * world)) * 2
    found: list[list[tuple]] = [[] for _ in range(world)]
    offset = 0
    for name, count in sizes.items():
        for rank in range(world):
            begin, stop = max(offset, rank * size), min(offset + count, (rank + 1) * size)
            if begin < stop:
                found[rank].append((name, begin - offset, begin - rank * size, stop - begin))
        offset += count
    return size, found


def saved(world: int) -> list[tuple]:
    """What every worker of ``world`` saves: slices by group, and the state of Muon's and Adam's groups."""
    whole = {name: 100.0 * i + torch.arange(n) for i, (name, n) in enumerate(MATRICES.items())}
    flat = {name: -100.0 * i - torch.arange(n) for i, (name, n) in enumerate(VECTORS.items(), 1)}
    made = []
    of_muon, of_adam = partitions(MATRICES, world), partitions(VECTORS, world)
    for muon, adam in zip(of_muon[1], of_adam[1], strict=True):
        moments = torch.zeros(of_adam[0])
        for name, first, start, count in adam:
            moments[start : start + count] = flat[name][first : first + count]
        state = {1: {"step": 9, "exp_avg": moments}}
        if muon:
            state[0] = {WHOLE: torch.cat([whole[name] for name, *_ in muon])}
        slices = [
            {name: SimpleNamespace(start=start, numel=count) for name, _, start, count in group}
            for group in (muon, adam)
        ]
        made.append((slices, {"state": state}))
    return made


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations((1, 3, 4, 5, 16), 2)))
def test_the_states_of_one_number_of_workers_are_cut_to_those_of_another(before, after):
    merged = merge(saved(before), MATRICES | VECTORS)
    of_muon, of_adam = partitions(MATRICES, after), partitions(VECTORS, after)
    for rank, (_, expected) in enumerate(saved(after)):
        state = cut(merged, of_muon[1][rank], of_muon[0])
        assert state.keys() == expected["state"].get(0, {}).keys()
        assert all(torch.equal(state[key], expected["state"][0][key]) for key in state)
        state = cut(merged, of_adam[1][rank], of_adam[0])
        if of_adam[1][rank]:
            assert state["step"] == 9
            assert torch.equal(state["exp_avg"], expected["state"][1]["exp_avg"])
