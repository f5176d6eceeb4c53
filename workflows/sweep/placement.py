"""How many trials of a sweep run at a time, and what part of a GPU each takes. Starts nothing.

Trials are packed by memory: a small teacher leaves room on a GPU for others. On a CPU a
teacher whose file holds its dtype is memory-mapped, so all trials of a node read one copy.
On a GPU every process has a copy of its own: CUDA shares memory between processes only
through handles that die with their owner, and then one failed trial would end its neighbours.
The sizes are estimates from shapes, rounded up; ``room.py`` says what the cluster has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jointsampler import Teacher
from jointsampler.distill.objective import HELD_FLOATS
from jointsampler.distill.positions import rows_of
from jointsampler.errors import UserError
from workflows import teachers
from workflows.forecast import planned_sampler, row_length
from workflows.sweep.plan import SweepPlan, axes_of
from workflows.train.gpu_share import CONTEXT_BYTES
from workflows.train.plan import TrainPlan, training_rows

GIB = 2**30
PROCESS_BYTES = int(0.8 * GIB)  # torch, Ray and DeepSpeed in a training worker; measured 0.65
USABLE = 0.9  # share of a device's or node's memory that is planned for
MOST_ON_A_GPU = 8  # they share its compute, so more gain nothing
MOST_AT_ONCE = 32  # trials: each has two processes on the driver's node
TEACHER_TENSORS = 16  # of a row's hidden states that a teacher's pass holds at once
SAMPLER_TENSORS = 40  # of a row's states that one pass of the sampler keeps for the backward pass
WEIGHT_BYTES = 20  # of the sampler: weight, gradient, two moments, the copy for validations
TRIED = 64  # points of a search space whose memory is looked at


@dataclass(frozen=True)
class Node:
    """What one node offers, or ``count`` such nodes."""

    cpus: float
    gpus: float
    memory: float  # bytes
    count: int = 1


@dataclass(frozen=True)
class Need:
    """Bytes that one training worker takes."""

    device: float  # of a GPU
    host: float  # of the node
    shared: float = 0.0  # of the node, once for all workers there


@dataclass(frozen=True)
class Placement:
    at_once: int  # trials
    gpu_share: float  # of a GPU, per worker; 0 without GPUs


def place(
    workers: int,
    trials: int,
    nodes: Sequence[Node],
    need: Need,
    *,
    on_gpu: bool,
    gpu_bytes: int | None = None,
    at_once: int = 0,
    cpu_share: float = 1.0,
) -> Placement:
    """As many trials of ``workers`` workers (0: all there are) as fit into ``nodes``, at least one.

    gpu_bytes: of the smallest GPU; unknown, or with several workers per trial, a worker
    takes a whole GPU, because NCCL refuses two workers of one training on one GPU.
    ``at_once`` is the user's number and taken as it is. ``cpu_share``: CPUs per worker.
    """
    together = on_a_gpu(need, gpu_bytes) if on_gpu and workers == 1 else 1
    slots = sum(node.count * slots_on(node, need, on_gpu, together, cpu_share) for node in nodes)
    fitting = max(1, min(trials, slots // workers, MOST_AT_ONCE)) if workers else 1
    # Rounded down to what Ray counts in, so that all of them fit into one GPU.
    share = math.floor(1e4 / together) / 1e4 if on_gpu else 0.0
    return Placement(at_once or fitting, share)


def on_a_gpu(need: Need, gpu_bytes: int | None) -> int:
    """Workers that one GPU holds."""
    if gpu_bytes is None:
        return 1
    return max(1, min(MOST_ON_A_GPU, int(USABLE * gpu_bytes // need.device)))


def slots_on(node: Node, need: Need, on_gpu: bool, together: int, cpu_share: float) -> int:
    """Workers that a node holds."""
    devices = int(node.gpus) * together if on_gpu else int(node.cpus / cpu_share)
    if math.isinf(node.memory):  # not said
        return devices
    in_memory = int(max(0.0, USABLE * node.memory - need.shared) // need.host)
    # A node that is short of memory still gets one worker, which finds its own batch sizes.
    return min(devices, max(1, in_memory))


def largest_need(plan: SweepPlan, on_gpu: bool) -> Need:
    """The need of the largest trial, of the first points of the search space."""
    axes = axes_of(plan.settings)
    teacher = teachers.describe(plan.config.teacher)
    shared = not on_gpu and teachers.is_mapped(plan.config.teacher)
    needs = []
    for point in itertools.islice(itertools.product(*axes.values()), TRIED):
        try:
            trial = plan.trial(dict(zip(axes, point, strict=True)))
        except UserError:  # of a random search: values that do not go together
            continue
        needs.append(need_of(trial, teacher, plan.settings.workers or 1, on_gpu, shared))
    return max(needs, key=lambda need: need.device + need.host)


def need_of(plan: TrainPlan, teacher: Teacher, workers: int, on_gpu: bool, shared: bool) -> Need:
    """Of one worker of a training; ``teacher`` may be without weights."""
    settings = plan.settings
    share = math.ceil(settings.batch_size / workers)
    part = math.ceil(share / settings.accumulate)
    length = row_length(plan.corpus, teacher, part)
    weights = teachers.weight_bytes(teacher, plan.corpus.teacher, on_gpu)
    number = teachers.state_bytes(plan.corpus.teacher, on_gpu)
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
