"""From work to seconds on a device that is not here: the slower of its two limits.

A prediction, not a measurement. It knows neither launches nor synchronisation nor
kernels that suit a shape badly, so it is an upper bound on speed for small models and
small batches.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import unknown_name
from .cost_model import Work

# The share of both peaks that a prediction counts on. An assumption, stated beside every table.
EFFICIENCY = 0.6


@dataclass(frozen=True)
class Device:
    name: str
    flops: float  # dense bfloat16 operations per second, at peak
    bandwidth: float  # bytes per second from memory, at peak

    def seconds(self, work: Work, efficiency: float = EFFICIENCY) -> float:
        """Predicted seconds of ``work``."""
        return max(work.operations / self.flops, work.bytes / self.bandwidth) / efficiency


# NVIDIA's data sheets: H100 SXM (dense bf16 is half of the figure with sparsity), H200 SXM, A100
# 80GB SXM.
_ALL = [
    Device("h100", 989e12, 3.35e12),
    Device("h200", 989e12, 4.8e12),
    Device("a100-80gb", 312e12, 2.0e12),
]
DEVICES: dict[str, Device] = {device.name: device for device in _ALL}


def get_device(name: str) -> Device:
    """The device called ``name``; UserError with the nearest name otherwise."""
    if name not in DEVICES:
        raise unknown_name("device to predict", name, DEVICES)
    return DEVICES[name]
