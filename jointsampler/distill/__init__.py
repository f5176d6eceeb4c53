"""Distillation of a joint sampler from teacher trajectories: targets, loss, step.

Optimizers, workers and checkpoints are left to ``workflows/train``.
"""

from .batch import Batch, draw_batch
from .positions import DistillSettings
from .step import distill_step
from .targets import TeacherStates

__all__ = [
    "Batch",
    "DistillSettings",
    "TeacherStates",
    "distill_step",
    "draw_batch",
]
