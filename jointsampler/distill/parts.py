"""Into how many parts a worker must cut its share of a step so that each part fits into its memory.

Found before the engine is built, on a copy of the sampler outside of it: a backward
pass that fails in an engine would leave half of its gradients and of the workers'
exchanges behind. How parts sum to the step's gradient is in ``trainer.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..config.schema import TrainConfig
from ..memory import BatchSize, device_memory
from ..sampler import JointSampler
from .batch import Batch, shares
from .positions import DistillSettings, rows_of
from .step import distill_step
from .targets import TeacherStates
from .validate import Place, gathered

# Left free on a CUDA device while parts are tried: for buckets of gradients and fragmentation.
_SPARE = 0.1
_OPTIMIZER_BYTES = 16  # per weight: the engine's copy, its gradient, two moments


def fitting_parts(
    states: TeacherStates,
    sampler: JointSampler,
    settings: TrainConfig,
    distill: DistillSettings,
    place: Place,
    precision: Callable[[], AbstractContextManager[Any]],
) -> int:
    """``train.accumulate``, or as many more parts as the memory of the smallest worker demands.

    ``sampler``: a copy that no engine holds; it keeps its weights. The states tried
    are this worker's longest rows, at the deepest depth. Raises UserError where a
    single state does not fit.
    """
    share = -(-settings.batch_size // place.world)  # the largest
    most = -(-share // settings.accumulate)
    config, length = sampler.config, states.trajectories.width
    purpose = f"training, {config.width} wide, depth {config.depth}, k {distill.k_max}, "
    purpose += f"{distill.near + distill.far} positions"
    size = BatchSize.of(states.teacher, length, purpose, most)
    # Doubling up to ``most`` takes less than twice as many rows.
    count = most if size.size == most else 2 * most
    batch = _longest(states, config.depth > 0, distill, settings, count, place)

    def tried(part: range) -> None:
        with precision():
            loss, _ = distill_step(states, sampler, batch.part(part), distill, 0)
        loss.backward()

    reserve = _reserved(states.teacher.device, sampler)
    size.over(count, tried)
    del reserve
    sampler.zero_grad(set_to_none=True)
    parts = max(settings.accumulate, -(-share // size.fits))
    return max(gathered(parts, place.world))


def _longest(
    states: TeacherStates,
    hybrid: bool,
    distill: DistillSettings,
    settings: TrainConfig,
    count: int,
    place: Place,
) -> Batch:
    """``count`` states that take as much memory as any of this worker's can."""
    prompts, total = states.trajectories.prompts, settings.batch_size
    # A row whose states are kept needs no teacher pass.
    own = sorted(
        rows_of(shares(total, place.world)[place.rank], total, len(prompts)),
        key=lambda row: (row in states.kept, -len(prompts[row])),
    )
    rows = torch.tensor([own[i % len(own)] for i in range(count)])
    depths = torch.tensor([1]) if hybrid else torch.arange(1, distill.k_max)
    advances = depths[:, None].expand(-1, count)
    return Batch.of(states.trajectories.reveals, rows, torch.zeros_like(rows), advances)


def _reserved(device: torch.device, sampler: JointSampler) -> Tensor | None:
    """Memory that the engine will take, held on a CUDA device meanwhile."""
    if device.type != "cuda":
        return None
    weights = sum(p.numel() for p in sampler.parameters())
    size = int(_SPARE * device_memory(device)) + _OPTIMIZER_BYTES * weights
    return torch.empty(size, dtype=torch.uint8, device=device)
