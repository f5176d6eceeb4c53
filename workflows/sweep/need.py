"""The memory that one worker of a trial takes, estimated from shapes and rounded up.

On a CPU a teacher whose file holds its dtype is memory-mapped, so all trials of a node
read one copy. On a GPU every process has a copy of its own: CUDA shares memory between
processes only through handles that die with their owner, and then one failed trial would
end its neighbours.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from jointsampler import Teacher
from jointsampler.config import TeacherConfig
from jointsampler.distill.objective import HELD_FLOATS
from jointsampler.distill.positions import rows_of
from jointsampler.errors import UserError
from jointsampler.teachers.checkpoint import find_checkpoint
from workflows import teachers
from workflows.forecast import planned_sampler, row_length
from workflows.sweep.plan import SweepPlan, axes_of
from workflows.train.gpu_share import CONTEXT_BYTES
from workflows.train.plan import TrainPlan, training_rows

GIB = 2**30
PROCESS_BYTES = int(0.8 * GIB)  # torch, Ray and DeepSpeed in a training worker; measured 0.65
TEACHER_TENSORS = 16  # of a row's hidden states that a teacher's pass holds at once
SAMPLER_TENSORS = 40  # of a row's states that one pass of the sampler keeps for the backward pass
WEIGHT_BYTES = 20  # of the sampler: weight, gradient, two moments, the copy for validations
TRIED = 64  # points of a search space whose memory is looked at


@dataclass(frozen=True)
class Need:
    """Bytes that one training worker takes."""

    device: float  # of a GPU
    host: float  # of the node
    shared: float = 0.0  # of the node, once for all workers there


def largest_need(plan: SweepPlan, on_gpu: bool) -> Need:
    """The need of the largest trial, of the first points of the search space."""
    axes = axes_of(plan.settings)
    teacher = teachers.describe(plan.config.teacher)
    shared = not on_gpu and is_mapped(plan.config.teacher)
    workers, needs = plan.settings.workers or 1, []
    for point in itertools.islice(itertools.product(*axes.values()), TRIED):
        try:
            trial = plan.trial(dict(zip(axes, point, strict=True)))
        except UserError:  # of a random search: values that do not go together
            continue
        needs.append(need_of(trial, teacher, workers, on_gpu, shared))
    needs = needs or [need_of(plan.trial({}), teacher, workers, on_gpu, shared)]
    return max(needs, key=lambda need: need.device + need.host)


def need_of(plan: TrainPlan, teacher: Teacher, workers: int, on_gpu: bool, shared: bool) -> Need:
    """Of one worker of a training; ``teacher`` may be without weights."""
    settings = plan.settings
    share = math.ceil(settings.batch_size / workers)
    part = math.ceil(share / settings.accumulate)
    length = row_length(plan.corpus, teacher, part)
    weights = weight_bytes(teacher, plan.corpus.teacher, on_gpu)
    number = state_bytes(plan.corpus.teacher, on_gpu)
    depths = 1 if plan.sampler.depth else settings.k_max - 1
    rows = (depths + 1) * part * length
    width = teacher.hidden_size
    sampler = planned_sampler(plan, teacher)
    logits = min(HELD_FLOATS, part * (settings.near + settings.far) * teacher.vocab_size)
    working = (
        WEIGHT_BYTES * sum(p.numel() for p in sampler.parameters())
        + TEACHER_TENSORS * rows * width * number
        + SAMPLER_TENSORS * rows * sampler.config.width * 4
        + 4 * 4 * logits
    )
    kept = kept_bytes(plan, teacher, share, length)
    if on_gpu:
        return Need(CONTEXT_BYTES + weights + working, PROCESS_BYTES + kept)
    own = PROCESS_BYTES + kept + working + (0 if shared else weights)
    return Need(0, own, weights if shared else 0)


def kept_bytes(plan: TrainPlan, teacher: Teacher, share: int, length: float) -> float:
    """Teacher states that a worker keeps in the node's memory (train.cache_gib)."""
    settings, tokens = plan.settings, plan.corpus.settings.max_new_tokens
    rows = len(training_rows(settings, plan.corpus.settings.rows))
    own = len(rows_of(range(share), settings.batch_size, rows))
    layers = 2 if plan.sampler.depth else 1
    return min(settings.cache_gib * GIB, own * tokens * length * teacher.hidden_size * 2 * layers)


def state_bytes(config: TeacherConfig, on_gpu: bool) -> int:
    """Bytes of one number that the teacher computes with."""
    name = ("bfloat16" if on_gpu else "float32") if config.dtype == "auto" else config.dtype
    return getattr(torch, name).itemsize


def weight_bytes(teacher: Teacher, config: TeacherConfig, on_gpu: bool) -> int:
    """Memory that the teacher's weights take, from their shapes."""
    count = sum(p.numel() for p in teacher.model.parameters())
    bits = {"none": 8 * state_bytes(config, on_gpu), "int8": 8, "int4": 4}
    return count * bits[config.quantization] // 8


def is_mapped(config: TeacherConfig) -> bool:
    """Whether a CPU reads the weights from the page cache, which all processes of a node share.

    So it is where config.json names the dtype that the teacher is used in, because then
    nothing is converted; but experts are stacked into new tensors.
    """
    wanted = "float32" if config.dtype == "auto" else config.dtype
    named = find_checkpoint(config.name, config.revision, weights=False).config
    stored = named.get("dtype") or named.get("torch_dtype")
    copied = config.quantization != "none" or bool(named.get("num_experts"))
    return stored == wanted and not copied
