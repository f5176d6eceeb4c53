"""Forecasts: how long a run takes before anything starts, and how its corpus scales with GPUs.

    jointsampler run pipeline --config ... --out DIR --plan
    jointsampler run estimate --config paper-dream-7b --out DIR estimate.gpus=64

The forecast counts two FLOPs per weight and token of a forward pass and six of a
training pass, at a sustained rate per device (estimate.gpu_flops,
estimate.core_flops). The constants below are measurements of this code. Attention's
quadratic part is left out, and so are batches too small to fill a device.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from jointsampler import Teacher
from jointsampler.config import Config, EstimateConfig
from jointsampler.distill.trainer import distill_settings
from workflows import corpus, evaluate, report, teachers
from workflows.sweep import plan as sweep_plan
from workflows.train.plan import TrainPlan, new_sampler, training_rows

# Seconds, measured on two CPU cores with Ray 2.60.
START_ACTORS_S = 12.0  # a Ray Data stage until its actors work, without loading weights
START_TRAINING_S = 22.0  # a Ray Train run, its start and end
DISPATCH_S = 0.008  # of the driver per shard: handing out, collecting
VERIFY_S = 0.004  # of the driver per shard of 64 rows: sha256, decoding, checks
CORPUS_BYTES_A_TOKEN = 3.2  # after compression, without prompts


@dataclass(frozen=True)
class Devices:
    count: int
    flops: float  # sustained, of each
    kind: str

    @classmethod
    def of(cls, settings: EstimateConfig) -> Devices:
        gpus = settings.gpus or torch.cuda.device_count()
        if gpus:
            return cls(gpus, settings.gpu_flops, "GPU")
        return cls(os.cpu_count() or 1, settings.core_flops, "CPU core")


@dataclass(frozen=True)
class Forecast:
    """The work of one stage."""

    name: str
    work: str
    flops: float
    devices: int
    overhead_s: float
    disk: float  # bytes

    def seconds(self, devices: Devices) -> float:
        return self.overhead_s + self.flops / (self.devices * devices.flops)


def table(plan: report.ReportPlan, swept: sweep_plan.SweepPlan | None) -> str:
    """The stages of a pipeline, one line each, and their sum."""
    config = plan.evaluate.config
    devices = Devices.of(config.estimate)
    lines = [
        f"Forecast for {devices.count} {devices.kind}{'s' if devices.count > 1 else ''} at "
        f"{devices.flops:.1e} FLOP/s each (estimate.*); nothing has been started.",
        f"{'stage':<10}{'work':>22}{'workers':>9}{'time':>10}{devices.kind + '-hours':>16}{'disk':>9}",
    ]
    hours = seconds = disk = 0.0
    for stage in forecasts(plan, swept, config):
        lasts = stage.seconds(devices)
        spent = lasts * stage.devices / 3600
        lines.append(
            f"{stage.name:<10}{stage.work:>22}{stage.devices:>9}{duration(lasts):>10}{spent:>16.2f}"
            f"{file_size(stage.disk):>9}"
        )
        hours, seconds, disk = hours + spent, seconds + lasts, disk + stage.disk
    lines.append(
        f"{'all':<10}{'':>22}{'':>9}{duration(seconds):>10}{hours:>16.2f}{file_size(disk):>9}"
    )
    return "\n".join(lines)


def forecasts(
    plan: report.ReportPlan, swept: sweep_plan.SweepPlan | None, config: Config
) -> list[Forecast]:
    devices = Devices.of(config.estimate)
    training = plan.evaluate.train
    teacher = teachers.describe(config.teacher)
    made = [of_corpus(training.corpus, teacher, devices)]
    if swept is not None:
        settings, trials = swept.settings, sweep_plan.count(swept.settings)
        each = settings.workers or devices.count
        together = max(1, min(settings.at_once or trials, devices.count // each, trials))
        first = swept.trial({})
        made.append(of_training("sweep", first, teacher, each * together, trials))
    workers = training.settings.workers or devices.count
    made.append(of_training("train", training, teacher, workers))
    made.append(of_evaluation(plan.evaluate, teacher, devices))
    return made


def of_corpus(plan: corpus.CorpusPlan, teacher: Teacher, devices: Devices) -> Forecast:
    settings = plan.settings
    length = row_length(plan, teacher)
    flops = plan.rows * settings.max_new_tokens * length * 2.0 * weights(teacher)
    # One actor makes a whole shard, so the last wave of shards seldom occupies all actors.
    actors = min(settings.actors or devices.count, plan.shards)
    waves = math.ceil(plan.shards / actors)
    flops *= waves * actors / plan.shards
    overhead = START_ACTORS_S + plan.shards * (DISPATCH_S + VERIFY_S)
    disk = plan.rows * length * CORPUS_BYTES_A_TOKEN
    return Forecast("corpus", f"{plan.rows} rows", flops, actors, overhead, disk)


def of_training(
    name: str, plan: TrainPlan, teacher: Teacher, workers: int, runs: int = 1
) -> Forecast:
    """``runs`` trainings like ``plan``, on ``workers`` workers in all."""
    settings = plan.settings
    length, depth = row_length(plan.corpus, teacher), mean_passes(plan)
    states = settings.steps * settings.batch_size
    sampler = sampler_weights(plan, teacher)
    head = teacher.vocab_size * teacher.hidden_size
    positions = settings.near + settings.far
    # The last pass of a step computes the scored positions alone: about half of the work.
    flops = states * ((depth - 0.5) * 6.0 * sampler * length + depth * 8.0 * head * positions)
    asked = teacher_sequences(plan, teacher, length, depth, workers)
    flops += asked * 2.0 * weights(teacher) * length
    disk = 2 * 16.0 * sampler  # two checkpoints: weights, master weights, two moments
    work = f"{runs} x {settings.steps} steps" if runs > 1 else f"{settings.steps} steps"
    return Forecast(name, work, runs * flops, workers, START_TRAINING_S * runs, runs * disk)


def teacher_sequences(
    plan: TrainPlan, teacher: Teacher, length: float, depth: float, workers: int
) -> float:
    """Sequences that the teacher computes in a training, as far as its states are not kept."""
    settings, tokens = plan.settings, plan.corpus.settings.max_new_tokens
    states = settings.steps * settings.batch_size
    rows = len(training_rows(settings, plan.corpus.settings.rows))
    layers = 2 if plan.sampler.depth else 1
    row_bytes = tokens * length * teacher.hidden_size * 2 * layers
    budget = settings.cache_gib * 2**30 * max(1, workers)
    kept = min(rows, budget / row_bytes) if states else 0.0
    online = 1 - kept / rows
    return states * online * (depth + 1) + kept * tokens


def of_evaluation(plan: evaluate.EvaluatePlan, teacher: Teacher, devices: Devices) -> Forecast:
    settings, decoding = plan.settings, plan.train.corpus.settings
    length = decoding.max_new_tokens
    passes = float(length)  # the reference
    for method, k in plan.pairs:
        passes += length if method.startswith("lossless") else length / k
    texts = settings.samples * settings.generation_seeds
    meters = 2.0 * decoding.held_out * length * len({k for _, k in plan.pairs if k > 1})
    tokens = (texts * passes + meters) * row_length(plan.train.corpus, teacher)
    return Forecast(
        "evaluate",
        f"{texts * (len(plan.pairs) + 1)} texts",
        tokens * 2.0 * weights(teacher),
        settings.actors or devices.count,
        START_ACTORS_S + 60,
        20e6,
    )


def weights(teacher: Teacher) -> int:
    """Parameters that a token is multiplied with: all but the input embedding."""
    every = sum(p.numel() for p in teacher.model.parameters())
    return max(every - teacher.vocab_size * teacher.hidden_size, teacher.hidden_size**2)


def sampler_weights(plan: TrainPlan, teacher: Teacher) -> int:
    sampler = new_sampler(plan.sampler, plan.columns, plan.settings, 0, teacher)
    return sum(p.numel() for p in sampler.parameters())


def row_length(plan: corpus.CorpusPlan, teacher: Teacher) -> float:
    """Mean tokens of prompt and response."""
    tokens = plan.settings.max_new_tokens
    opening = teacher.bos_id is not None
    if plan.source is None:
        return tokens + opening
    prompts = plan.first_prompts
    return tokens + opening + (sum(map(len, prompts)) / len(prompts) / 3.5 if prompts else 100)


def mean_passes(plan: TrainPlan) -> float:
    """Passes of the sampler for one state of the training, in the mean."""
    if plan.sampler.depth:
        return 1.0
    settings = distill_settings(plan.settings)
    return sum(settings.deeper**d for d in range(settings.k_max - 1))


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def file_size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def projection(plan: corpus.CorpusPlan, settings: EstimateConfig) -> str:
    """The corpus on estimate.gpus GPUs, or on 1, 8, 64 and 512: where the time goes."""
    teacher = teachers.describe(plan.teacher)
    size = sum(p.numel() * 2 for p in teacher.model.parameters())
    lines = [
        f"{plan.rows} rows x {plan.settings.max_new_tokens} tokens, {plan.shards} shards, teacher of "
        f"{file_size(size)}; {settings.gpu_flops:.1e} FLOP/s a GPU, storage "
        f"{file_size(settings.storage_bytes_per_second)}/s.",
        f"{'GPUs':>6}{'sampling':>11}{'idle':>9}{'weights':>9}{'driver':>9}{'all':>9}{'efficiency':>12}",
    ]
    one = of_corpus(plan, teacher, Devices(1, settings.gpu_flops, "GPU"))
    work = one.flops / settings.gpu_flops
    for count in [settings.gpus] if settings.gpus else [1, 8, 64, 512]:
        stage = of_corpus(plan, teacher, Devices(count, settings.gpu_flops, "GPU"))
        busy = work / count
        sampling = stage.flops / (stage.devices * settings.gpu_flops)
        loading = count * size / settings.storage_bytes_per_second
        dispatch, verify = plan.shards * DISPATCH_S, plan.shards * VERIFY_S
        whole = START_ACTORS_S + loading + max(sampling, dispatch) + verify
        cells = (busy, sampling - busy, loading, dispatch + verify, whole)
        times = "".join(f"{duration(s):>{w}}" for s, w in zip(cells, (11, 9, 9, 9, 9), strict=True))
        lines.append(f"{count:>6}{times}{busy / whole:>12.2f}")
    return "\n".join(lines)
