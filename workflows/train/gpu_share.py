"""A worker's part of a GPU that trials of a sweep share."""

from __future__ import annotations

import torch

CONTEXT_BYTES = int(0.8 * 2**30)  # of CUDA, cuBLAS and NCCL in a process; an assumption


def stay_in_share(device: torch.device, share: float) -> None:
    """Limit torch to ``share`` of the GPU's memory, so that a worker that needs more fails alone."""
    if device.type != "cuda" or share >= 1:
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, share - CONTEXT_BYTES / total), device)
