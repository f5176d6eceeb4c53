"""Train: Ray Train workers distil the joint sampler inside a DeepSpeed engine.

    python workflows/train.py --config workflows/configs/quickstart.yaml --out DIR

Only the sampler is in the engine; the frozen teacher stays outside, so that
checkpoints hold the sampler alone. A worker's step is a pure function of (seed,
step, rank). What a step computes is ``jointsampler/distill``.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer

from jointsampler import JointSampler, block_kl
from jointsampler.config import Config, SamplerConfig, TrainConfig
from jointsampler.corpus_manifest import split_corpus, verify_corpus
from jointsampler.distill import DistillSettings, TeacherStates, distill_step, draw_states
from jointsampler.errors import UserError
from jointsampler.measure.block_kl import summarize
from workflows import cluster, corpus, entry, teachers
from workflows.stage import digest, require, run_once
from workflows.tracking import TrainReporter, open_run

ENGINE_TAG = "engine"
# Without a GPU: no search for one, and no minutes of compiling Muon's small matrix products.
CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
SAMPLER_FOLDER = "sampler"


@dataclass(frozen=True)
class TrainPlan:
    out: Path
    corpus: corpus.CorpusPlan
    sampler: SamplerConfig
    settings: TrainConfig
    seed: int

    stage = "train"

    @property
    def folder(self) -> Path:
        return self.out / "sampler"

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(exclude={"report_every", "max_failures"})
        return digest(self.corpus.key, self.sampler.model_dump(), settings, self.seed)

    def intact(self) -> bool:
        return all(
            (self.folder / name).is_file() for name in ("config.json", "model.safetensors")
        )


def plan(config: Config, out: Path) -> TrainPlan:
    corpus_plan = corpus.plan(config, out)
    teacher = teachers.describe(config.teacher)
    teacher.layer_shape(
        config.sampler.width or teacher.hidden_size
    )  # refuses a width that does not fit
    too_long = [k for k in config.train.validate_k if k > config.corpus.max_new_tokens]
    if too_long:
        raise UserError(
            f"train.validate_k={too_long[0]} exceeds corpus.max_new_tokens={config.corpus.max_new_tokens}."
        )
    return TrainPlan(out, corpus_plan, config.sampler, config.train, config.run.seed)


def schedule(step: int, settings: TrainConfig) -> float:
    """Factor on lr: warm-up, constant, then linear to 0 over the last ``cooldown`` of the steps."""
    warm = (step + 1) / (settings.warmup_steps + 1)
    cool = (settings.steps - step) / max(1.0, settings.cooldown * settings.steps)
    return max(0.0, min(1.0, warm, cool))


def bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def build_optimizer(sampler: JointSampler, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; or Muon (DeepSpeed's, which knows ZeRO) for the matrices and Adam for the norms."""
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            sampler.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=decay
        )
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in sampler.named_parameters():
        # The estimator regresses; Muon is for maps between hidden states. The mark is DeepSpeed's own.
        parameter.use_muon = parameter.ndim == 2 and not name.startswith("estimator.")
        groups[parameter.use_muon].append(parameter)
    return MuonWithAuxAdam(
        [
            {
                "params": groups[True],
                "use_muon": True,
                "lr": settings.muon_lr,
                "weight_decay": decay,
            },
            {"params": groups[False], "use_muon": False, "lr": settings.lr, "weight_decay": 0.0},
        ]
    )


def start_engine(sampler: JointSampler, settings: TrainConfig, device: torch.device) -> Any:
    import deepspeed  # in the worker only: the driver never needs it

    if device.type == "cpu":
        # DeepSpeed would compile a shared-memory collective for a minute; gloo does the job.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    optimizer = build_optimizer(sampler, settings)
    engine, *_ = deepspeed.initialize(
        model=sampler,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: schedule(s, settings)),
        config={
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only checks the product; batches are ours
            # Under ZeRO, Muon's update takes the gradient's place before DeepSpeed clips: clipping
            # would shrink the step itself. Neither Muon nor Adam minds the gradient's scale.
            "gradient_clipping": settings.clip if settings.optimizer == "adamw" else 0.0,
            "zero_optimization": {"stage": settings.zero_stage},
            "steps_per_print": 10**9,
        },
    )
    return engine


def validate(
    teacher, sampler, held_out, settings: TrainConfig, rank: int, world: int
) -> dict[str, float]:
    """Captured dependency on held-out trajectories, each worker a share of them."""
    metrics = {}
    rows = held_out.select(range(min(settings.validate_rows, len(held_out)))[rank::world])
    sampler.eval()
    for k in settings.validate_k:
        part = block_kl(teacher, sampler, rows, k=k)
        parts = [None] * world
        if world > 1:
            torch.distributed.all_gather_object(parts, part.per_trajectory)
        else:
            parts = [part.per_trajectory]
        whole = summarize(k, np.concatenate(parts), part.blocks)
        metrics[f"captured_k{k}"] = whole.captured.value
    sampler.train()
    return metrics


def train_loop(plan: TrainPlan) -> None:
    """What each worker runs."""
    logging.getLogger().setLevel(logging.WARNING)  # one line a report is the reporter's
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    settings = plan.settings
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    teacher = teachers.load(plan.corpus.teacher, str(device))
    trajectories, held_out = split_corpus(plan.corpus.folder)
    trajectories.check_teacher(teacher)
    n = len(trajectories)
    sampler = JointSampler.for_teacher(
        teacher, plan.sampler.width, plan.sampler.layers, seed=plan.seed, k_max=settings.k_max
    ).train()
    engine = start_engine(sampler, settings, device)
    start = 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            _, client = engine.load_checkpoint(folder, tag=ENGINE_TAG)
            start = client["step"]
        if rank == 0:
            print(f"train: going on from step {start}", file=sys.stderr, flush=True)
    fast = settings.precision == "bfloat16" or (
        settings.precision == "auto" and bf16_is_fast(device)
    )
    low = torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()
    states = TeacherStates(teacher, trajectories, settings.cache_gib)
    if settings.cache_gib:
        begin = time.monotonic()
        with low:
            states.fill(range(rank, n, world))
        if rank == 0:
            print(
                f"train: kept the teacher's states of {len(states.kept)} rows a worker "
                f"({states.bytes / 2**20:.0f} MiB) in {time.monotonic() - begin:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    distill = DistillSettings(
        settings.k_max, settings.depth_decay, settings.near, settings.far, settings.near_share
    )
    since, recent = time.monotonic(), []
    for step in range(start, settings.steps):
        index, starts = draw_states(
            n, trajectories.length, settings.batch_size // world, plan.seed, step, rank, world
        )
        with low:
            loss, metrics = distill_step(states, engine, index, starts, distill, plan.seed)
        engine.backward(loss)
        engine.step()
        recent.append(torch.stack(list(metrics.values())))
        done = step + 1
        last = done == settings.steps
        report = {}
        if done % settings.report_every == 0 or last:
            means = torch.stack(recent).mean(0).tolist()
            report = dict(zip(metrics, means, strict=True))
            elapsed = time.monotonic() - since
            report["states_per_second"] = len(recent) * settings.batch_size / elapsed
            report["seconds_left"] = (settings.steps - done) * elapsed / len(recent)
            report["lr_factor"] = schedule(step, settings)
            since, recent = time.monotonic(), []
        if done % settings.validate_every == 0 or last:
            begin = time.monotonic()
            report |= validate(teacher, sampler, held_out, settings, rank, world)
            since += time.monotonic() - begin
        if report:
            report["step"] = done
        if done % settings.save_every == 0 or last:
            save(engine, sampler, report or {"step": done}, done, rank)
        elif report:
            ray.train.report(report)


def save(engine: Any, sampler: JointSampler, report: dict[str, Any], step: int, rank: int) -> None:
    """Every rank adds its shard; Ray Train merges them into one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag=ENGINE_TAG, client_state={"step": step})
        if rank == 0:
            sampler.save_pretrained(Path(folder) / SAMPLER_FOLDER)
        ray.train.report(
            report,
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"step_{step:06d}",
        )


def fitting_pool(pool: cluster.Pool, settings: TrainConfig) -> cluster.Pool:
    """The pool with a size that divides the batch: the next smaller one, unless the user named it."""
    if settings.workers and settings.batch_size % pool.size:
        raise UserError(
            f"train.batch_size={settings.batch_size} is not a multiple of train.workers={pool.size}."
        )
    size = next(n for n in range(pool.size, 0, -1) if settings.batch_size % n == 0)
    return dataclasses.replace(pool, size=size)


def run(plan: TrainPlan, reporter: TrainReporter | None) -> dict[str, Any]:
    """Train to the end, from the last checkpoint if there is one, and put the sampler in its place."""
    verify_corpus(plan.corpus.folder)  # a damaged file is named here, not in a worker's traceback
    pool = fitting_pool(cluster.pool(plan.settings.workers), plan.settings)
    begin = time.monotonic()
    on_gpu = pool.gpus > 0
    result = TorchTrainer(
        train_loop,
        train_loop_config=plan,
        scaling_config=ScalingConfig(
            num_workers=pool.size,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1} if on_gpu else {"CPU": pool.cpus},
        ),
        run_config=RunConfig(
            # The name is the plan's key: the same plan goes on from its last checkpoint.
            name=plan.key,
            storage_path=str(plan.out / "train"),
            failure_config=FailureConfig(max_failures=plan.settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[reporter] if reporter is not None else None,
            worker_runtime_env={"env_vars": {} if on_gpu else CPU_ENVIRONMENT},
        ),
    ).fit()
    if result.checkpoint is None:
        raise RuntimeError(f"Training ended without a checkpoint: {result.error}")
    with result.checkpoint.as_directory() as folder:
        if plan.folder.exists():
            shutil.rmtree(plan.folder)
        shutil.copytree(Path(folder) / SAMPLER_FOLDER, plan.folder)
    metrics = {
        k: v for k, v in result.metrics.items() if k.startswith(("captured", "loss", "step"))
    }
    return {"workers": pool.size, "seconds": round(time.monotonic() - begin, 1), **metrics}


def main() -> None:
    config, out = entry.parse(__doc__)
    train_plan = plan(config, out)
    require(train_plan.corpus)
    cluster.connect()
    with open_run(config, out) as tracker:
        run_once(train_plan, lambda: run(train_plan, tracker.train_reporter()))


if __name__ == "__main__":
    from workflows import train  # under its own name, as the workers import it

    entry.run(train.main)
