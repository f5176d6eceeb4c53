"""Estimate: what a run will take before anything starts, and how its corpus scales with GPUs.

    python workflows/pipeline.py --config ... --out DIR --plan
    python workflows/estimate.py --config workflows/configs/paper-dream-7b.yaml --out DIR estimate.gpus=64

Arithmetic on shapes: two FLOPs per weight and token of a forward pass, six of a
training one, at a sustained rate per device that the user may set
(estimate.gpu_flops, estimate.core_flops). The fixed costs are measurements of
this code (README, "Large corpora, other machines"). A forecast, not a promise: attention's
quadratic part and batches too small to fill a device are not in it.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jointsampler import Teacher
from jointsampler.config.schema import Config, EstimateConfig
from jointsampler.distill import DistillSettings
from workflows import corpus, entry, evaluate, report, sweep, teachers, train

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
        gpus = settings.gpus or visible_gpus()
        if gpus:
            return cls(gpus, settings.gpu_flops, "GPU")
        return cls(os.cpu_count() or 1, settings.core_flops, "CPU core")


def visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


@dataclass(frozen=True)
class Stage:
    name: str
    work: str
    flops: float
    devices: int
    overhead_s: float
    disk: float  # bytes

    def seconds(self, devices: Devices) -> float:
        return self.overhead_s + self.flops / (self.devices * devices.flops)


def weights(teacher: Teacher) -> int:
    """Parameters that a token meets: all but the input embedding, which is looked up."""
    model = teacher.model
    every = sum(p.numel() for p in model.parameters())
    return max(every - teacher.vocab_size * teacher.hidden_size, teacher.hidden_size**2)


def sampler_weights(plan: train.TrainPlan, teacher: Teacher) -> int:
    sampler = train.new_sampler(plan.sampler, plan.settings, 0, teacher)
    return sum(p.numel() for p in sampler.parameters())


def row_length(plan: corpus.CorpusPlan, teacher: Teacher) -> float:
    """Mean tokens of prompt and response."""
    bos = teacher.bos_id is not None
    if plan.prompts is None:
        return plan.settings.max_new_tokens + bos
    some = plan.prompts[:200]
    ids = corpus.encode_prompts(teacher, some, plan.settings.max_new_tokens)
    return plan.settings.max_new_tokens + sum(map(len, ids)) / len(ids)


def corpus_stage(plan: corpus.CorpusPlan, teacher: Teacher, devices: Devices) -> Stage:
    settings = plan.settings
    length = row_length(plan, teacher)
    flops = plan.rows * settings.max_new_tokens * length * 2.0 * weights(teacher)
    # A shard is one actor's: the last wave is seldom full.
    actors = min(settings.actors or devices.count, plan.shards)
    waves = math.ceil(plan.shards / actors)
    flops *= waves * actors / plan.shards
    overhead = START_ACTORS_S + plan.shards * (DISPATCH_S + VERIFY_S)
    disk = plan.rows * length * CORPUS_BYTES_A_TOKEN + plan.rows * offline_bytes(
        plan, length, teacher
    )
    return Stage("corpus", f"{plan.rows} rows", flops, actors, overhead, disk)


def offline_bytes(plan: corpus.CorpusPlan, length: float, teacher: Teacher) -> float:
    """Of one row's targets, which every training worker holds in memory."""
    kept = plan.offline
    if kept is None:
        return 0.0
    opening = 2.0 * length * teacher.hidden_size * (1 + len(kept.read_layers))
    return kept.anchors * (opening + kept.depths * (kept.near + kept.far) * (6 * kept.top + 8))


def training_stage(
    name: str, plan: train.TrainPlan, teacher: Teacher, workers: int, runs: int = 1
) -> Stage:
    settings, distill = plan.settings, train.distill_settings(plan.settings)
    length = row_length(plan.corpus, teacher)
    depth = mean_depth(distill)
    states = settings.steps * settings.batch_size
    sampler = sampler_weights(plan, teacher)
    positions = settings.near + settings.far
    head = teacher.vocab_size * teacher.hidden_size
    # The last pass of a step is made where it is scored: about half of the work.
    passes = depth if plan.sampler.window or settings.hidden_weight else depth - 0.5
    flops = states * (passes * 6.0 * sampler * length + depth * 8.0 * head * positions)
    kept_layers = 1 + plan.sampler.features
    rows_bytes = (
        plan.corpus.settings.max_new_tokens * length * teacher.hidden_size * 2 * kept_layers
    )
    rows = len(train.training_rows(settings, plan.corpus.settings.rows))
    kept = min(rows, settings.cache_gib * 2**30 * max(1, workers) / rows_bytes) if states else 0.0
    online = 1 - kept / rows
    asked = states * (online * (depth + 1) + (1 - online) * settings.fresh * depth)
    asked += kept * plan.corpus.settings.max_new_tokens
    if plan.corpus.offline is None:
        flops += asked * 2.0 * weights(teacher) * length
    disk = 2 * 16.0 * sampler  # two checkpoints: weights, master weights, two moments
    work = f"{runs} x {settings.steps} steps" if runs > 1 else f"{settings.steps} steps"
    return Stage(name, work, runs * flops, workers, START_TRAINING_S * runs, runs * disk)


def mean_depth(settings: DistillSettings) -> float:
    deepest = settings.k_max - 1
    return sum(settings.deeper**d for d in range(deepest))


def evaluation_stage(plan: evaluate.EvaluatePlan, teacher: Teacher, devices: Devices) -> Stage:
    settings, decoding = plan.settings, plan.train.corpus.settings
    length = decoding.max_new_tokens
    passes = length  # the reference
    for method, k in plan.pairs:
        passes += length if method.startswith("lossless") else length / k
    texts = settings.samples * settings.generation_seeds
    meters = 2.0 * decoding.held_out * length * len({k for _, k in plan.pairs if k > 1})
    flops = (texts * passes + meters) * row_length(plan.train.corpus, teacher) * 2.0
    return Stage(
        "evaluate", f"{texts * (len(plan.pairs) + 1)} texts", flops * weights(teacher),
        settings.actors or devices.count, START_ACTORS_S + 60, 20e6,
    )  # fmt: skip


def stages(plan: report.ReportPlan, swept: sweep.SweepPlan | None, config: Config) -> list[Stage]:
    devices = Devices.of(config.estimate)
    train_plan = plan.evaluate.train
    teacher = teachers.describe(config.teacher)
    made = [corpus_stage(train_plan.corpus, teacher, devices)]
    if swept is not None:
        settings, trials = swept.settings, sweep.count(swept.settings)
        each = settings.workers or devices.count
        together = max(1, min(settings.at_once or trials, devices.count // each, trials))
        first = swept.trial({})
        made.append(training_stage("sweep", first, teacher, each * together, trials))
    workers = train_plan.settings.workers or devices.count
    made.append(training_stage("train", train_plan, teacher, workers))
    made.append(evaluation_stage(plan.evaluate, teacher, devices))
    return made


def told(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def told_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def table(plan: report.ReportPlan, swept: sweep.SweepPlan | None) -> str:
    """The stages of a pipeline, one line each, and their sum."""
    config = plan.evaluate.config
    devices = Devices.of(config.estimate)
    lines = [
        f"Forecast for {devices.count} {devices.kind}{'s' if devices.count > 1 else ''} at "
        f"{devices.flops:.1e} FLOP/s each (estimate.*); nothing has been started.",
        f"{'stage':<10}{'work':>22}{'workers':>9}{'time':>10}{devices.kind + '-hours':>16}{'disk':>9}",
    ]
    hours = seconds = disk = 0.0
    for stage in stages(plan, swept, config):
        lasts = stage.seconds(devices)
        spent = lasts * stage.devices / 3600
        lines.append(
            f"{stage.name:<10}{stage.work:>22}{stage.devices:>9}{told(lasts):>10}{spent:>16.2f}"
            f"{told_bytes(stage.disk):>9}"
        )
        hours, seconds, disk = hours + spent, seconds + lasts, disk + stage.disk
    lines.append(
        f"{'all':<10}{'':>22}{'':>9}{told(seconds):>10}{hours:>16.2f}{told_bytes(disk):>9}"
    )
    return "\n".join(lines)


def projection(plan: corpus.CorpusPlan, settings: EstimateConfig, counts: list[int]) -> str:
    """The corpus on so many GPUs: where the time goes, and what saturates first."""
    teacher = teachers.describe(plan.teacher)
    size = sum(p.numel() * 2 for p in teacher.model.parameters())
    lines = [
        f"{plan.rows} rows x {plan.settings.max_new_tokens} tokens, {plan.shards} shards, teacher of "
        f"{told_bytes(size)}; {settings.gpu_flops:.1e} FLOP/s a GPU, storage "
        f"{told_bytes(settings.storage_bytes_per_second)}/s.",
        f"{'GPUs':>6}{'sampling':>11}{'idle':>9}{'weights':>9}{'driver':>9}{'all':>9}{'efficiency':>12}",
    ]
    one = corpus_stage(plan, teacher, Devices(1, settings.gpu_flops, "GPU"))
    work = one.flops / settings.gpu_flops
    for count in counts:
        stage = corpus_stage(plan, teacher, Devices(count, settings.gpu_flops, "GPU"))
        busy = work / count
        sampling = stage.flops / (stage.devices * settings.gpu_flops)
        loading = count * size / settings.storage_bytes_per_second
        driver = plan.shards * (DISPATCH_S + VERIFY_S)
        whole = START_ACTORS_S + loading + max(sampling, plan.shards * DISPATCH_S) + plan.shards * VERIFY_S  # fmt: skip
        lines.append(
            f"{count:>6}{told(busy):>11}{told(sampling - busy):>9}{told(loading):>9}{told(driver):>9}"
            f"{told(whole):>9}{busy / whole:>12.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    config, out = entry.parse(__doc__)
    counts = [config.estimate.gpus] if config.estimate.gpus else [1, 8, 64, 512]
    print(projection(corpus.plan(config, out), config.estimate, counts))


if __name__ == "__main__":
    entry.run(main)
