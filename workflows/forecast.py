"""The work of each stage in FLOPs, and how long it takes on some devices, before anything starts.

Two FLOPs per weight and token of a forward pass, six of a training pass, at a
sustained rate per device (estimate.gpu_flops, estimate.core_flops). Counted are the
padding of prompts, the validations of a training, and ends before the response is
full (estimate.response_share). Left out are attention's quadratic part, batches too
small to fill a device, and a large judge. The constants are measurements of this code
unless they say otherwise. ``estimate.py`` prints forecasts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from jointsampler import JointSampler, Teacher
from jointsampler.config import Config
from jointsampler.distill.trainer import distill_settings
from jointsampler.evaluation.items import PATHS, kl_keys, update_name
from workflows import corpus, evaluation, report, teachers
from workflows.stage import Plan
from workflows.sweep import plan as sweep_plan
from workflows.train.engine import low_precision
from workflows.train.plan import TrainPlan, new_sampler, training_rows

# Seconds, measured on two CPU cores with Ray 2.60.
START_ACTORS_S = 12.0  # a Ray Data stage until its actors work, without loading weights
START_TRAINING_S = 22.0  # a Ray Train run, its start and end
MEASURE_S = 60.0  # of an evaluation: the judge, the costs of the updates, MAUVE, intervals
DISPATCH_S = 0.008  # of the driver per shard: handing out, collecting
VERIFY_S = 0.004  # of the driver per shard of 64 rows: sha256, decoding, checks
BF16_SPEED = 2.0  # of a core with bfloat16 products in a training, times estimate.core_flops
COMPILE_S = 60.0  # Muon's compiled steps on a GPU; an assumption
CORPUS_BYTES_A_TOKEN = 3.2  # after compression, without prompts
CHARACTERS_A_TOKEN = 3.5  # of English and code; a plan has no vocabulary
CHAT_TOKENS = 20  # of a template around one turn
UNKNOWN_PROMPT = 100  # tokens, where a plan cannot read the first prompts


@dataclass(frozen=True)
class Devices:
    count: int
    flops: float  # sustained, of each
    kind: str

    @classmethod
    def of(cls, config: Config, resources: Mapping[str, float] | None = None) -> Devices:
        """estimate.gpus GPUs, else those of the cluster's ``resources``, else those of this machine.

        A cluster that starts its GPUs on demand has none yet: with teacher.device=cuda
        as many are counted as the stages ask for.
        """
        settings, device = config.estimate, config.teacher.device
        gpus = settings.gpus
        if not gpus and device != "cpu":
            present = torch.cuda.device_count() if resources is None else resources.get("GPU", 0)
            gpus = int(present)
        if not gpus and device == "cuda":
            gpus = max(1, config.corpus.actors, config.train.workers, config.evaluate.actors)
        if gpus:
            return cls(gpus, settings.gpu_flops, "GPU")
        cores = (os.cpu_count() or 1) if resources is None else int(resources.get("CPU", 1))
        return cls(max(1, cores), settings.core_flops, "CPU core")


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


def forecasts(
    plan: report.ReportPlan, swept: sweep_plan.SweepPlan | None, devices: Devices
) -> list[Forecast]:
    """Of every stage with work: corpus, sweep if there is one, train, evaluate."""
    training, config = plan.evaluate.train, plan.evaluate.config
    teacher = teachers.describe(config.teacher)
    stages = [training.corpus, swept, training, plan.evaluate]
    return [forecast(stage, config, teacher, devices) for stage in stages if stage is not None]


def expected_seconds(
    plan: Plan, config: Config, resources: Mapping[str, float] | None
) -> float | None:
    """How long one stage should take on the cluster; None for a stage without work."""
    if isinstance(plan, report.ReportPlan):
        return None
    devices = Devices.of(config, resources)
    return forecast(plan, config, teachers.describe(config.teacher), devices).seconds(devices)


def forecast(plan: Plan, config: Config, teacher: Teacher, devices: Devices) -> Forecast:
    """Of the plan of one stage."""
    share = config.estimate.response_share
    if isinstance(plan, corpus.CorpusPlan):
        return of_corpus(plan, teacher, devices, share)
    if isinstance(plan, sweep_plan.SweepPlan):
        return of_sweep(plan, teacher, devices)
    if isinstance(plan, TrainPlan):
        workers = plan.settings.workers or devices.count
        return of_training("train", plan, teacher, workers, devices)
    return of_evaluation(plan, teacher, devices, share)


def of_sweep(plan: sweep_plan.SweepPlan, teacher: Teacher, devices: Devices) -> Forecast:
    settings, trials = plan.settings, sweep_plan.count(plan.settings)
    each = settings.workers or devices.count
    together = max(1, min(settings.at_once or trials, devices.count // each, trials))
    first = plan.trial({})
    return of_training("sweep", first, teacher, each * together, devices, trials)


def of_corpus(
    plan: corpus.CorpusPlan, teacher: Teacher, devices: Devices, share: float = 1.0
) -> Forecast:
    settings = plan.settings
    # A batch is as long as its longest prompt, and goes on until its last row has ended.
    length = row_length(plan, teacher, settings.rows_per_file)
    passes = plan.rows * settings.max_new_tokens * share
    flops = passes * length * 2.0 * weights(teacher)
    # One actor makes a whole shard, so the last wave of shards seldom occupies all actors.
    actors = min(settings.actors or devices.count, plan.shards)
    waves = math.ceil(plan.shards / actors)
    flops *= waves * actors / plan.shards
    overhead = START_ACTORS_S + plan.shards * (DISPATCH_S + VERIFY_S)
    disk = plan.rows * length * CORPUS_BYTES_A_TOKEN
    return Forecast("corpus", f"{plan.rows} rows", flops, actors, overhead, disk)


def of_training(
    name: str, plan: TrainPlan, teacher: Teacher, workers: int, devices: Devices, runs: int = 1
) -> Forecast:
    """``runs`` trainings like ``plan``, on ``workers`` workers in all."""
    settings = plan.settings
    length, depth = row_length(plan.corpus, teacher, settings.batch_size), mean_passes(plan)
    states = settings.steps * settings.batch_size
    sampler = sampler_weights(plan, teacher)
    positions = settings.near + settings.far
    # The last pass of a step computes the scored positions alone: about half of the work.
    flops = states * (depth - 0.5) * 6.0 * sampler * length
    flops += states * depth * 8.0 * head(teacher) * positions
    asked = teacher_sequences(plan, teacher, length, depth, workers)
    flops += asked * 2.0 * weights(teacher) * length
    if devices.kind != "GPU" and low_precision(settings, torch.device("cpu")):
        flops /= BF16_SPEED
    flops += of_validations(plan, teacher)
    if settings.optimizer == "muon":  # the workers divide the matrices
        flops += settings.steps * muon_step(plan, teacher)
    disk = 2 * 16.0 * sampler  # two checkpoints: weights, master weights, two moments
    work = f"{runs} x {settings.steps} steps" if runs > 1 else f"{settings.steps} steps"
    compiled = devices.kind == "GPU" and settings.optimizer == "muon"
    overhead = START_TRAINING_S + (COMPILE_S if compiled else 0.0)
    return Forecast(name, work, runs * flops, workers, overhead * runs, runs * disk)


def muon_step(plan: TrainPlan, teacher: Teacher) -> float:
    """FLOPs of Muon's five Newton-Schulz iterations on every matrix of the sampler."""
    shapes = [sorted(p.shape) for p in planned_sampler(plan, teacher).parameters() if p.ndim == 2]
    return sum(5 * (4.0 * m * m * n + 2.0 * m**3) for m, n in shapes)


def of_validations(plan: TrainPlan, teacher: Teacher) -> float:
    """FLOPs of all validations of a training, the first of which computes the teacher's states."""
    settings, tokens = plan.settings, plan.corpus.settings.max_new_tokens
    times = math.ceil(settings.steps / settings.validate_every)
    if not times:
        return 0.0
    rows = min(settings.validate_rows, plan.corpus.settings.held_out)
    length = row_length(plan.corpus, teacher, rows)
    a_pass = 2.0 * weights(teacher) * length
    # Once: the teacher's state before every reveal, and the marginal model's openings.
    flops = rows * tokens * a_pass
    for k in settings.validate_k:
        flops += rows * (tokens / k * a_pass + tokens * 4.0 * head(teacher))
        flops += times * rows * walked(plan, teacher, k, tokens, length)
    return flops


def walked(plan: TrainPlan, teacher: Teacher, k: int, tokens: int, length: float) -> float:
    """FLOPs of one recorded row in rounds of k reveals with the trained update, both logits included."""
    openings = tokens / k * 2.0 * weights(teacher) * length
    updates = (tokens - tokens / k) * trained_update(plan, teacher, length)
    return openings + updates + tokens * 4.0 * head(teacher)


def trained_update(plan: TrainPlan, teacher: Teacher, length: float) -> float:
    """FLOPs of one update of the trained sampler on one row, with the new scores."""
    sampler, depth = sampler_weights(plan, teacher), plan.sampler.depth
    if not depth:  # the paper's form computes every column; the changed states are scored anew
        return 2.0 * sampler * length
    lower = depth / teacher.layers * (weights(teacher) - head(teacher))
    return plan.columns.count * 2.0 * (sampler + lower + head(teacher))


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


def of_evaluation(
    plan: evaluation.EvaluatePlan, teacher: Teacher, devices: Devices, share: float = 1.0
) -> Forecast:
    settings, decoding = plan.settings, plan.train.corpus.settings
    tokens = decoding.max_new_tokens
    length = row_length(plan.train.corpus, teacher, settings.samples_per_item)
    a_pass = 2.0 * weights(teacher) * length
    updates = {
        "none": 0.0,
        "joint": trained_update(plan.train, teacher, length),
        "refresh": plan.columns.count * 2.0 * weights(teacher),
    }
    a_text = tokens * a_pass  # the reference
    for method, k in plan.pairs:
        passes = tokens if method.startswith("lossless") else tokens / k
        a_text += passes * a_pass + (tokens - tokens / k) * updates[update_name(method)]
    texts = settings.samples * settings.generation_seeds
    flops = texts * share * a_text
    flops += decoding.held_out * of_meters(plan, teacher, tokens, a_pass, updates)
    return Forecast(
        "evaluate",
        f"{texts * (len(plan.pairs) + 1)} texts",
        flops,
        settings.actors or devices.count,
        START_ACTORS_S + MEASURE_S,
        20e6,
    )


def of_meters(
    plan: evaluation.EvaluatePlan,
    teacher: Teacher,
    tokens: int,
    a_pass: float,
    updates: Mapping[str, float],
) -> float:
    """FLOPs of every block KL of one held-out row."""
    keys = kl_keys(plan.pairs)
    walks = [(update_name(method), k, path) for method, k, path in keys]
    walks += [("none", k, path) for k in {k for _, k, _ in keys} for path in PATHS]
    flops = tokens * a_pass if walks else 0.0  # the teacher's recorded states
    for update, k, path in walks:
        flops += tokens / k * a_pass + tokens * 4.0 * head(teacher)
        flops += (tokens - tokens / k) * updates[update]
        if path != "recorded":  # states that no other walk visits
            flops += (tokens - tokens / k) * a_pass
    return flops


def head(teacher: Teacher) -> int:
    return teacher.vocab_size * teacher.hidden_size


def weights(teacher: Teacher) -> int:
    """Parameters that a token is multiplied with: all but the input embedding."""
    every = sum(p.numel() for p in teacher.model.parameters())
    return max(every - head(teacher), teacher.hidden_size**2)


def sampler_weights(plan: TrainPlan, teacher: Teacher) -> int:
    return sum(p.numel() for p in planned_sampler(plan, teacher).parameters())


def planned_sampler(plan: TrainPlan, teacher: Teacher) -> JointSampler:
    return new_sampler(plan.sampler, plan.columns, plan.settings, 0, teacher)


def row_length(plan: corpus.CorpusPlan, teacher: Teacher, batch: int) -> float:
    """Tokens of a row in a batch of ``batch`` rows: the longest prompt of the batch, and the response."""
    settings = plan.settings
    opening = settings.max_new_tokens + (teacher.bos_id is not None)
    if plan.source is None:
        return opening
    around = CHAT_TOKENS if settings.chat else 0
    lengths = sorted(len(text) / CHARACTERS_A_TOKEN + around for text in plan.first_prompts)
    if not lengths:
        return opening + UNKNOWN_PROMPT + around
    # The mean of the longest of ``prompted`` prompts drawn from these: P(max <= i-th) = (i / n) ^ m.
    count, prompted = len(lengths), max(1.0, batch * settings.prompted)
    below = [(i / count) ** prompted for i in range(count + 1)]
    return opening + sum(x * (below[i + 1] - below[i]) for i, x in enumerate(lengths))


def mean_passes(plan: TrainPlan) -> float:
    """Passes of the sampler for one state of the training, in the mean."""
    if plan.sampler.depth:
        return 1.0
    settings = distill_settings(plan.settings)
    return sum(settings.deeper**d for d in range(settings.k_max - 1))
