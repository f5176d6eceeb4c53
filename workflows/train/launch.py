"""Starting a training: how many workers, Ray Train around the loop, the sampler in its place."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer

from jointsampler import JointSampler, storage
from jointsampler.config import TrainConfig
from jointsampler.errors import UserError
from workflows import cluster
from workflows.train.checkpoint import SAMPLER_FOLDER
from workflows.train.engine import CPU_ENVIRONMENT
from workflows.train.failures import FailureCount, leave_the_sentence_alone
from workflows.train.loop import train_loop
from workflows.train.plan import TrainPlan, most_workers

# CPUs per worker: less than one, because drivers of trials need a little of it. Ray divides sums
# of it to count the workers that fit, which is exact only for a binary fraction.
CPU_SHARE = 0.875


def run(plan: TrainPlan, reporter: UserCallback | None) -> dict[str, Any]:
    """:func:`fit`, or :func:`take` without steps; the results for the manifest."""
    if not plan.settings.steps:
        take(plan)
        return {"warm_start": plan.settings.warm_start}
    begin = time.monotonic()
    metrics = fit(plan, [] if reporter is None else [reporter], plan.settings.workers)
    kept = {k: v for k, v in metrics.items() if k.startswith(("best", "loss", "step"))}
    workers = int(metrics["workers"])  # at the end
    return {"workers": workers, "seconds": round(time.monotonic() - begin, 1), **kept}


def take(plan: TrainPlan) -> None:
    """Put the sampler of ``train.warm_start`` into the plan's folder as it is."""
    sampler = JointSampler.from_pretrained(plan.settings.warm_start)  # may lie in that folder
    if plan.folder.exists():
        shutil.rmtree(plan.folder)
    sampler.save_pretrained(plan.folder)


def fit(
    plan: TrainPlan, callbacks: Sequence[UserCallback], workers: int, gpu_share: float = 1.0
) -> dict[str, Any]:
    """Train to the end, from the last checkpoint if there is one; the sampler goes to the plan's folder.

    gpu_share: of a GPU, for each worker, where there are GPUs.
    Returns the metrics of the last report. Raises UserError where a worker does.
    """
    pool = fitting_pool(cluster.pool(workers, plan.corpus.teacher.device), plan.settings)
    if pool.gpus:
        pool = dataclasses.replace(pool, gpus=gpu_share)
    with cluster.user_errors():
        result = trainer(plan, callbacks, pool).fit()
    if result.checkpoint is None:
        raise RuntimeError(f"Training ended without a checkpoint: {result.error}")
    with result.checkpoint.as_directory() as folder:
        if plan.folder.exists():
            shutil.rmtree(plan.folder)
        shutil.copytree(Path(folder) / SAMPLER_FOLDER, plan.folder)
    return result.metrics


def trainer(plan: TrainPlan, callbacks: Sequence[UserCallback], pool: cluster.Pool) -> TorchTrainer:
    on_gpu, fewest = pool.gpus > 0, plan.settings.min_workers
    return TorchTrainer(
        attempt,
        train_loop_config=plan,
        scaling_config=ScalingConfig(
            # With two numbers Ray Train takes as many as there are nodes for, and looks every minute.
            num_workers=(fewest, pool.size) if fewest else pool.size,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": pool.gpus} if on_gpu else {"CPU": CPU_SHARE},
        ),
        run_config=RunConfig(
            # The name is the plan's key, so the same plan goes on from its last checkpoint.
            name=plan.key + plan.trial,
            storage_path=str(storage.join(plan.corpus.storage, "train")),
            failure_config=FailureConfig(max_failures=-1),  # FailureCount ends a training
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[*callbacks, FailureCount(plan.settings.max_failures)],
            worker_runtime_env={"env_vars": {} if on_gpu else CPU_ENVIRONMENT},
        ),
    )


def attempt(plan: TrainPlan) -> None:
    """The loop of one worker. Ray Train logs the traceback of an error, but not of a UserError."""
    try:
        train_loop(plan)
    except UserError:
        leave_the_sentence_alone()
        raise


def fitting_pool(pool: cluster.Pool, settings: TrainConfig) -> cluster.Pool:
    """The pool with as many workers as there are parts of a batch for, at most."""
    return dataclasses.replace(pool, size=min(pool.size, most_workers(settings)))
