"""Distillation of a joint sampler from teacher trajectories: targets, loss, step.

Optimizers, workers and checkpoints are the training workflow's business.
"""

from .offline import OfflineSettings, OfflineStates, Recorder, encode_targets
from .step import DistillSettings, distill_step, draw_depth, draw_states, start_weights
from .targets import TeacherStates

__all__ = [
    "DistillSettings",
    "OfflineSettings",
    "OfflineStates",
    "Recorder",
    "TeacherStates",
    "distill_step",
    "draw_depth",
    "draw_states",
    "encode_targets",
    "start_weights",
]
