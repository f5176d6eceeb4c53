"""Forecasts as text: how long a run takes, when it is given up, and how its corpus scales with GPUs.

    jointsampler run pipeline --config ... --out DIR --plan
    jointsampler run estimate --config paper-dream-7b --out DIR estimate.gpus=64

``forecast.py`` says what is counted.
"""

from __future__ import annotations

import math

from jointsampler.config import EstimateConfig
from workflows import corpus, report, teachers
from workflows.forecast import (
    DISPATCH_S,
    START_ACTORS_S,
    VERIFY_S,
    Devices,
    forecasts,
    of_corpus,
)
from workflows.sweep import plan as sweep_plan

# Forecasts are off by less, and GPU nodes that start on demand come within half an hour.
DEADLINE_FACTOR, DEADLINE_START_S = 3.0, 1800


def table(plan: report.ReportPlan, swept: sweep_plan.SweepPlan | None, devices: Devices) -> str:
    """The stages of a pipeline, one line each, and their sum."""
    lines = [
        f"Forecast for {devices.count} {devices.kind}{'s' if devices.count > 1 else ''} at "
        f"{devices.flops:.1e} FLOP/s each (estimate.*); nothing has been started.",
        f"{'stage':<10}{'work':>22}{'workers':>9}{'time':>10}{devices.kind + '-hours':>16}{'disk':>9}",
    ]
    hours = seconds = disk = 0.0
    for stage in forecasts(plan, swept, devices):
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
    lines.append(
        "A job's deadline, three times that and half an hour: "
        f"activeDeadlineSeconds: {deadline(seconds)}"
    )
    return "\n".join(lines)


def deadline(seconds: float) -> int:
    """Seconds after which a run with this forecast is stuck, in whole quarters of an hour."""
    return 900 * math.ceil((DEADLINE_FACTOR * seconds + DEADLINE_START_S) / 900)


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
    share = settings.response_share
    one = of_corpus(plan, teacher, Devices(1, settings.gpu_flops, "GPU"), share)
    work = one.flops / settings.gpu_flops
    for count in [settings.gpus] if settings.gpus else [1, 8, 64, 512]:
        stage = of_corpus(plan, teacher, Devices(count, settings.gpu_flops, "GPU"), share)
        busy = work / count
        sampling = stage.flops / (stage.devices * settings.gpu_flops)
        loading = count * size / settings.storage_bytes_per_second
        dispatch, verify = plan.shards * DISPATCH_S, plan.shards * VERIFY_S
        whole = START_ACTORS_S + loading + max(sampling, dispatch) + verify
        cells = (busy, sampling - busy, loading, dispatch + verify, whole)
        times = "".join(f"{duration(s):>{w}}" for s, w in zip(cells, (11, 9, 9, 9, 9), strict=True))
        lines.append(f"{count:>6}{times}{busy / whole:>12.2f}")
    return "\n".join(lines)
