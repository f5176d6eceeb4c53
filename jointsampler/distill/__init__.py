"""Distillation of a joint sampler from teacher trajectories: targets, loss, step.

Optimizers, workers and checkpoints are left to ``workflows/train``.
"""

from .positions import DistillSettings, draw_states
from .step import distill_step
from .targets import TeacherStates

__all__ = [
    "DistillSettings",
    "TeacherStates",
    "distill_step",
    "draw_states",
]
