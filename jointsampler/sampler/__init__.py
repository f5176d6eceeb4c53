"""The joint sampler: one small trained layer on a frozen teacher, and its estimate of its own error."""

from .layer import at_columns
from .model import EMBEDDED, JointSampler, JointSamplerConfig, sampler_folder

__all__ = [
    "EMBEDDED",
    "JointSampler",
    "JointSamplerConfig",
    "at_columns",
    "sampler_folder",
]
