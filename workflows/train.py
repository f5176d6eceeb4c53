"""Train: Ray Train workers distil the joint sampler inside a DeepSpeed engine.

    python workflows/train.py --config workflows/configs/quickstart.yaml --out DIR

Only the sampler is in the engine; the frozen teacher stays outside, so that
checkpoints hold the sampler alone. A worker's step is a pure function of (seed,
step, rank). What a step computes is ``jointsampler/distill``.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from jointsampler import JointSampler, Teacher, Trajectories, block_kl, storage
from jointsampler.config.schema import Config, SamplerConfig, TrainConfig
from jointsampler.corpus.manifest import read_manifest, split_corpus, verify_corpus
from jointsampler.decoding.sampling import Sampling
from jointsampler.distill import (
    DistillSettings,
    OfflineStates,
    TeacherStates,
    distill_step,
    draw_depth,
    draw_states,
    start_weights,
)
from jointsampler.errors import UserError
from jointsampler.evaluation.block_kl import summarize
from jointsampler.evaluation.cost import pass_cost
from jointsampler.sampler.model import sampler_folder
from jointsampler.storage import sha256
from workflows import cluster, corpus, entry, teachers
from workflows.stage import digest, require, run_once
from workflows.tracking import TrainReporter, open_run

# Of a CPU per worker: drivers of trials need some crumbs of it. Ray counts the workers that fit by
# dividing sums of it, which only a binary fraction survives (five times 0.9 hold four).
CPU_SHARE = 0.875
ENGINE_TAG, PROGRESS = "engine", "progress.pt"  # in a checkpoint
# Without a GPU: no search for one, and no minutes of compiling Muon's small matrix products.
CPU_ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
SAMPLER_FOLDER = "sampler"
_CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (  # (limit, used) of the container's memory, versions 2 and 1
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class TrainPlan:
    out: Path
    folder: Path  # where the sampler goes
    corpus: corpus.CorpusPlan
    sampler: SamplerConfig
    settings: TrainConfig
    seed: int
    trial: str = ""  # tells trials of a sweep apart that drew the same values

    stage = "train"

    @property
    def key(self) -> str:
        # Workers are left out: a run that was cut off may go on with another number of them.
        settings = self.settings.model_dump(
            exclude={"report_every", "max_failures", "workers", "min_workers"}
        )
        start = self.settings.warm_start
        weights = start and sha256((sampler_folder(start) / "model.safetensors").read_bytes())
        return digest(self.corpus.key, self.sampler.model_dump(), settings, self.seed, weights)

    def intact(self) -> bool:
        return all((self.folder / name).is_file() for name in ("config.json", "model.safetensors"))


def plan(config: Config, out: Path) -> TrainPlan:
    return plan_on(corpus.plan(config, out), config, out / "sampler")


def plan_on(corpus_plan: corpus.CorpusPlan, config: Config, folder: Path) -> TrainPlan:
    """The training of ``config`` on a corpus that is planned already; the sampler goes to ``folder``."""
    seed = config.run.seed + config.train.seed
    new_sampler(config.sampler, config.train, seed, teachers.describe(config.teacher))
    if config.train.ema and config.train.zero_stage == 3:
        raise UserError(
            "train.ema averages whole weights, and train.zero_stage=3 keeps a part of each on every "
            "worker: take zero_stage 2 or less (a sampler is small), or ema=0."
        )
    if not config.train.steps and config.train.warm_start is None:
        raise UserError(
            "train.steps=0 trains nothing: name the sampler to take as it is in train.warm_start."
        )
    check_offline(corpus_plan, config)
    training_rows(config.train, corpus_plan.settings.rows)
    check_elastic(config.train)
    if config.train.certain < 1 and (corpus_plan.offline or not config.train.cache_gib):
        raise UserError(
            f"train.certain={config.train.certain:g} weighs states by what the teacher thought of them: "
            "it needs train.cache_gib (and no corpus.anchors)."
        )
    if config.train.fresh and (corpus_plan.offline or config.train.objective == "hard_labels"):
        raise UserError(
            f"train.fresh={config.train.fresh:g} asks the teacher for other tokens than the recorded: it "
            "goes with no corpus.anchors, and not with train.objective=hard_labels, which needs the recorded."
        )
    if config.train.objective == "hard_labels" and config.corpus.on_policy:
        raise UserError(
            "train.objective=hard_labels learns the recorded tokens, and those of corpus.on_policy rows are "
            "the sampler's own: take another objective, or on_policy=0."
        )
    length = config.corpus.max_new_tokens
    window = config.sampler.window
    for key, ks in (
        ("train.validate_k", config.train.validate_k),
        ("evaluate.ks", config.evaluate.ks),
    ):
        if window and max(ks) > window:
            raise UserError(f"{key}={max(ks)} exceeds sampler.window={window}: no block is longer.")
    if max(config.train.validate_k) > length:
        raise UserError(
            f"train.validate_k={max(config.train.validate_k)} exceeds corpus.max_new_tokens={length}."
        )
    if config.train.k_max > length:
        raise UserError(
            f"train.k_max={config.train.k_max} exceeds corpus.max_new_tokens={length}: no block can be "
            "longer than the response."
        )
    return TrainPlan(corpus_plan.out, folder, corpus_plan, config.sampler, config.train, seed)


def training_rows(settings: TrainConfig, rows: int) -> range:
    """Which of the corpus's ``rows`` training rows are trained on; UserError where it has no such rows."""
    last = settings.first_row + settings.rows if settings.rows else rows
    if settings.first_row >= last or last > rows:
        named = {"train.first_row": settings.first_row, "train.rows": settings.rows}
        asked = " with ".join(f"{key}={value}" for key, value in named.items() if value)
        raise UserError(f"{asked} exceeds the corpus's training rows, corpus.rows={rows}.")
    return range(settings.first_row, last)


def check_elastic(settings: TrainConfig) -> None:
    """UserError where a number of workers that train.min_workers allows cannot share the batch equally."""
    fewest, most = settings.min_workers, settings.workers
    if not fewest:
        return
    if most < fewest:
        raise UserError(
            f"train.min_workers={fewest} needs train.workers, the most that there may be: at least as "
            f"many, not {most}."
        )
    whole = settings.accumulate * math.lcm(*range(fewest, most + 1))
    if settings.batch_size % whole:
        raise UserError(
            f"train.batch_size={settings.batch_size} must divide among any number of workers from "
            f"train.min_workers={fewest} to train.workers={most}: take a multiple of {whole}."
        )


def check_offline(corpus_plan: corpus.CorpusPlan, config: Config) -> None:
    """UserError where the targets kept with the corpus are not those that this training asks for."""
    kept = corpus_plan.offline
    if kept is None:
        return
    wanted = corpus.offline_settings(config, teachers.describe(config.teacher))
    if (
        dataclasses.replace(wanted, depths=kept.depths) != kept
        or config.train.k_max - 1 > kept.depths
    ):
        raise UserError(
            f"The corpus keeps targets for k_max={kept.depths + 1}, near={kept.near}, far={kept.far}, "
            f"near_share={kept.near_share}, {len(kept.read_layers)} features and a window of {kept.candidates}: train with these "
            "(in a sweep k_max may be less), or with corpus.anchors=0."
        )
    if config.train.hidden_weight:
        raise UserError(
            "train.hidden_weight needs the teacher's states at every depth, which corpus.anchors does "
            "not keep: set one of them to 0."
        )


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


def start_engine(
    sampler: JointSampler, settings: TrainConfig, device: torch.device, low_precision: bool
) -> Any:
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
            "gradient_accumulation_steps": settings.accumulate,
            # On CUDA DeepSpeed switches an autocast around it off unless it is told of it.
            "torch_autocast": {
                "enabled": low_precision and device.type == "cuda",
                "dtype": "bfloat16",
            },
            "steps_per_print": 10**9,
        },
    )
    return engine


def validate(
    teacher: Teacher,
    sampler: JointSampler,
    held_out: Trajectories,
    settings: TrainConfig,
    order: str,
    rank: int,
    world: int,
) -> dict[str, float]:
    """Captured dependency and nats per token on held-out trajectories, each worker a share of them."""
    metrics = {}
    share = range(min(settings.validate_rows, len(held_out)))[rank::world]
    for k in settings.validate_k:
        own = np.empty((0, 2))
        if len(share):
            own = block_kl(
                teacher, sampler, held_out.select(share), k=k, order=order
            ).per_trajectory
        parts = [own]
        if world > 1:
            parts = [None] * world
            torch.distributed.all_gather_object(parts, own)
        whole = summarize(k, np.concatenate(parts), blocks=0)
        if whole.captured is None:
            raise diverged("its block KL is not a number", settings)
        metrics[f"captured_k{k}"] = whole.captured.value
        metrics[f"nats_k{k}"] = whole.sampler.value / k  # per token
    return metrics


def diverged(how: str, settings: TrainConfig) -> UserError:
    return UserError(
        f"Training diverged: {how}. Lower train.lr ({settings.lr}) and train.muon_lr "
        f"({settings.muon_lr}); submitted again it goes on from the last checkpoint."
    )


@dataclass
class Progress:
    """Where a training is and the best that it has been; what a checkpoint carries beside the engine."""

    step: int = 0
    best: float = -math.inf  # mean captured dependency over validate_k
    best_step: int = 0
    best_metrics: dict[str, float] | None = None
    best_weights: dict[str, torch.Tensor] | None = None
    waited: int = 0  # validations since
    average: dict[str, torch.Tensor] | None = None  # EMA of the weights

    def validated(self, metrics: dict[str, float], weights: dict[str, torch.Tensor]) -> None:
        captured = [value for name, value in metrics.items() if name.startswith("captured")]
        score = sum(captured) / len(captured)
        self.waited += 1
        if score > self.best:
            self.best, self.best_step, self.waited = score, self.step, 0
            self.best_metrics, self.best_weights = metrics, weights

    def averaged(self, sampler: JointSampler, decay: float) -> None:
        """After a step: one more term of the moving average, with the usual correction early on."""
        now = sampler.state_dict()
        if self.average is None:
            self.average = {name: value.clone() for name, value in now.items()}
            return
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in self.average.items():
            value.lerp_(now[name], 1 - decay)


def copied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def whole_weights(sampler: JointSampler, zero_stage: int) -> dict[str, torch.Tensor]:
    """A copy on the CPU, also where ZeRO-3 keeps a part of each weight on every rank; all ranks call it."""
    if zero_stage < 3:
        return copied(sampler.state_dict())
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(sampler.parameters())):
        return copied(sampler.state_dict())


def resume(engine: Any, checkpoint: Checkpoint, world: int, rank: int) -> Progress:
    """Engine and progress as the checkpoint left them.

    ZeRO's optimizer shards fit one number of workers only. With another, the
    weights go on and the optimizer starts afresh, which is said.
    """
    with checkpoint.as_directory() as folder:
        saved = torch.load(Path(folder) / PROGRESS, weights_only=True, map_location="cpu")
        same = saved.pop("world") == world
        engine.load_checkpoint(folder, tag=ENGINE_TAG, load_module_only=not same)
    progress = Progress(**saved)
    if progress.average is not None:
        progress.average = {name: v.to(engine.device) for name, v in progress.average.items()}
    if not same:
        for _ in range(progress.step):  # the schedule goes on where it was
            engine.lr_scheduler.step()
    if rank == 0:
        fresh = "" if same else f" on {world} workers, with a fresh optimizer"
        print(f"train: going on from step {progress.step}{fresh}", file=sys.stderr, flush=True)
    return progress


def new_sampler(
    shape: SamplerConfig, settings: TrainConfig, seed: int, teacher: Teacher
) -> JointSampler:
    """Untrained, or with the weights of ``train.warm_start``; UserError where it fits no such teacher."""
    sampler = JointSampler.for_teacher(
        teacher,
        shape.width,
        shape.layers,
        seed,
        settings.k_max,
        shape.features,
        shape.neighbors,
        shape.window,
        shape.rank,
    )
    if settings.warm_start is not None:
        weights = warm_start(settings.warm_start, sampler)
        if teacher.device.type != "meta":
            sampler.load_state_dict(weights, strict=False)
    return sampler.train()


def warm_start(folder: str, sampler: JointSampler) -> dict[str, torch.Tensor]:
    """The weights in ``folder``; UserError unless they fit ``sampler``.

    A sampler without neighbors fits one with them, whose term for them begins at zero.
    """
    other = JointSampler.from_pretrained(folder)
    wanted = {name: value.shape for name, value in sampler.state_dict().items()}
    if not other.config.neighbors:
        wanted.pop("beside.weight", None)
    if {name: value.shape for name, value in other.state_dict().items()} != wanted:
        raise UserError(
            f"train.warm_start={folder!r} holds a sampler of another shape (width {other.config.width}, "
            f"{other.config.layers} layers, {len(other.config.read_layers)} features, "
            f"{other.config.neighbors} neighbors, rank {other.config.rank}): set sampler.width, layers, "
            "features, neighbors and rank to its own."
        )
    return other.state_dict()


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
    trajectories = trajectories.select(training_rows(settings, len(trajectories)))
    n = len(trajectories)
    if n < world:
        raise UserError(
            f"{n} training rows cannot be shared by {world} workers: set train.workers."
        )
    sampler = new_sampler(plan.sampler, settings, plan.seed, teacher)
    twin = copy.deepcopy(sampler)  # outside the engine: what is validated and saved
    fast = settings.precision == "bfloat16" or (
        settings.precision == "auto" and bf16_is_fast(device)
    )
    low = torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()
    engine = start_engine(sampler, settings, device, fast)
    progress = Progress()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        progress = resume(engine, checkpoint, world, rank)
    states = states_of(plan, sampler.reading(teacher), trajectories)
    if settings.cache_gib and plan.corpus.offline is None:
        own = range(rank, n, world)
        check_memory(states, own, settings, context.get_local_world_size())
        check_kept(states, own, settings)
        begin = time.monotonic()
        with low:
            states.fill(own)
        if rank == 0:
            print(
                f"train: kept the teacher's states of {len(states.kept)} rows a worker "
                f"({states.bytes / 2**20:.0f} MiB) in {time.monotonic() - begin:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    weigh = start_weights(states, settings.certain)
    order = plan.corpus.settings.order
    cost = pass_cost(teacher, twin.eval(), batch=16, length=trajectories.length, order=order)
    costs = {"pass_cost_ratio": cost.ratio, "pass_cost_first": cost.first}
    distill = distill_settings(settings)
    clock, recent = Clock(states, progress.step), Recent()
    over = settings.patience and progress.waited >= settings.patience  # ended before it was resumed
    for step in range(progress.step, progress.step if over else settings.steps):
        index, starts = draw_states(
            n,
            trajectories.length,
            settings.batch_size // world,
            plan.seed,
            step,
            rank,
            world,
            weigh,
        )
        depths = draw_depth(distill, plan.seed, step)
        parts = zip(
            index.chunk(settings.accumulate), starts.chunk(settings.accumulate), strict=True
        )
        for part_index, part_starts in parts:
            with low:
                loss, metrics = distill_step(
                    states, engine, part_index, part_starts, distill, plan.seed, depths, step
                )
            engine.backward(loss)
            engine.step()
            recent.add(metrics)
        progress.step = done = step + 1
        if settings.ema:
            progress.averaged(sampler, settings.ema)
        last = done == settings.steps
        report: dict[str, Any] = {}
        if done % settings.report_every == 0 or last:
            report = recent.means()
            if not math.isfinite(report["loss"]):
                raise diverged(f"the loss is {report['loss']} at step {done}", settings)
            report |= clock.read(settings.batch_size, done, settings.steps)
            report["lr_factor"] = schedule(step, settings)
            recent = Recent()
        if done % settings.validate_every == 0 or last:
            clock.stop()
            weights = progress.average or whole_weights(sampler, settings.zero_stage)
            twin.load_state_dict(weights)
            validation = validate(
                teacher, twin, held_out, settings, plan.corpus.settings.order, rank, world
            )
            progress.validated(validation, copied(weights))
            report |= validation | costs
            clock.go_on()
        if settings.patience and progress.waited >= settings.patience and not last:
            last = True
            if rank == 0:
                print(
                    f"train: no better than step {progress.best_step} for {progress.waited} "
                    f"validations, stopped at step {done}",
                    file=sys.stderr,
                    flush=True,
                )
        if report:
            report["step"] = done
        if done % settings.save_every == 0 or last:
            report |= {"step": done, "best_step": progress.best_step, "workers": world}
            report |= {f"best_{name}": v for name, v in (progress.best_metrics or {}).items()}
            # Before the first validation, the weights as they are.
            twin.load_state_dict(
                progress.best_weights or whole_weights(sampler, settings.zero_stage)
            )
            save(engine, twin, progress, report, rank, world)
        elif report:
            ray.train.report(report)
        if last:
            break


def free_memory() -> int:
    """Bytes that this process may still use: the node's, or its container's where that is less."""
    free = psutil.virtual_memory().available
    for limit, used in CGROUPS:
        try:
            free = min(free, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # another cgroup version, or no limit
            continue
    return free


def check_memory(
    states: TeacherStates, rows: range, settings: TrainConfig, workers_here: int
) -> None:
    """UserError where the states to be kept would fill the node's memory.

    Other trials of a sweep on the same node are not counted.
    """
    wanted = min(states.budget, sum(map(states.row_bytes, rows))) * workers_here
    free = free_memory()
    if wanted > 0.9 * free:
        raise UserError(
            f"train.cache_gib={settings.cache_gib:g} would keep {wanted / 2**30:.1f} GiB of teacher states "
            f"on a node that has {free / 2**30:.1f} GiB left, for {workers_here} workers: lower it (rows "
            "that are not kept are asked of the teacher again) or train on fewer rows (train.rows)."
        )


def check_kept(states: TeacherStates, rows: range, settings: TrainConfig) -> None:
    """UserError where starts are to be weighed and not all rows can be kept, so that no one would know how."""
    wanted = sum(map(states.row_bytes, rows))
    if settings.certain < 1 and wanted > states.budget:
        raise UserError(
            f"train.certain={settings.certain:g} needs the teacher's states of all rows, "
            f"{wanted / 2**30:.1f} GiB of a worker's {len(rows)}, and train.cache_gib is "
            f"{settings.cache_gib:g}: raise it, train on fewer rows (train.rows) or set train.certain=1."
        )


def states_of(
    plan: TrainPlan, teacher: Teacher, trajectories: Trajectories
) -> TeacherStates | OfflineStates:
    """Where the targets come from: kept with the corpus, or the teacher as training goes."""
    if plan.corpus.offline is None:
        decoded = plan.corpus.settings
        sampling = Sampling(decoded.temperature, decoded.top_p)
        return TeacherStates(teacher, trajectories, plan.settings.cache_gib, sampling)
    folder = plan.corpus.folder
    shards = read_manifest(folder).shards
    files = [storage.read(storage.join(folder, shard.targets)) for shard in shards]
    return OfflineStates(teacher, trajectories, files)


def distill_settings(settings: TrainConfig) -> DistillSettings:
    names = [field.name for field in dataclasses.fields(DistillSettings)]
    return DistillSettings(**{name: getattr(settings, name) for name in names})


class Recent:
    """Means of the metrics since the last report; a step need not have every one."""

    def __init__(self) -> None:
        self.values: dict[str, list[torch.Tensor]] = {}

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        return {name: torch.stack(values).mean().item() for name, values in self.values.items()}


class Clock:
    """Where the time between two reports went: the teacher, its states from memory, the sampler."""

    def __init__(self, states: TeacherStates, step: int):
        self.states, self.step = states, step
        self.begin = time.monotonic()
        self.away = self.left = 0.0
        self.marks = (states.teacher_seconds, states.seconds)

    def stop(self) -> None:
        self.left = time.monotonic()

    def go_on(self) -> None:
        self.away += time.monotonic() - self.left

    def read(self, batch_size: int, done: int, steps: int) -> dict[str, float]:
        now, made = time.monotonic(), done - self.step
        elapsed = max(now - self.begin - self.away, 1e-9)
        teacher = self.states.teacher_seconds - self.marks[0]
        data = self.states.seconds - self.marks[1] - teacher
        rates = {
            "states_per_second": made * batch_size / elapsed,
            "seconds_left": (steps - done) * elapsed / made,
            "share_teacher": teacher / elapsed,
            "share_data": data / elapsed,
            "share_sampler": 1 - (teacher + data) / elapsed,
        }
        self.begin, self.away, self.step = now, 0.0, done
        self.marks = (self.states.teacher_seconds, self.states.seconds)
        return rates


def save(
    engine: Any,
    sampler: JointSampler,
    progress: Progress,
    report: dict[str, Any],
    rank: int,
    world: int,
) -> None:
    """Every rank adds its shard; Ray Train merges them into one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag=ENGINE_TAG)
        if rank == 0:
            torch.save({**vars(progress), "world": world}, Path(folder) / PROGRESS)
            sampler.save_pretrained(Path(folder) / SAMPLER_FOLDER)
        try:
            ray.train.report(
                report,
                checkpoint=Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"step_{progress.step:06d}",
            )
        except OSError as error:
            raise UserError(
                f"The checkpoint of step {progress.step} cannot be written ({error.strerror or error}): "
                "run again once there is room and permission, and training goes on from the last one."
            ) from None


def fitting_pool(pool: cluster.Pool, settings: TrainConfig) -> cluster.Pool:
    """The pool with a size that divides the batch: the next smaller one, unless the user named it."""
    if settings.workers and settings.batch_size % pool.size:
        raise UserError(
            f"train.batch_size={settings.batch_size} is not a multiple of train.workers={pool.size}."
        )
    size = next(n for n in range(pool.size, 0, -1) if settings.batch_size % n == 0)
    if settings.batch_size // size % settings.accumulate:
        raise UserError(
            f"train.accumulate={settings.accumulate} does not divide a worker's share of the batch, "
            f"train.batch_size={settings.batch_size} over {size} workers."
        )
    return dataclasses.replace(pool, size=size)


def fit(plan: TrainPlan, callbacks: Sequence[UserCallback], workers: int) -> dict[str, float]:
    """Train to the end, from the last checkpoint if there is one, and put the sampler in its place.

    Returns the metrics of the last report.
    """
    pool = fitting_pool(cluster.pool(workers, plan.corpus.teacher.device), plan.settings)
    on_gpu, fewest = pool.gpus > 0, plan.settings.min_workers
    try:
        result = TorchTrainer(
            train_loop,
            train_loop_config=plan,
            scaling_config=ScalingConfig(
                # Between the two, as many as there are nodes for, looked at again every minute.
                num_workers=(fewest, pool.size) if fewest else pool.size,
                use_gpu=on_gpu,
                resources_per_worker={"GPU": 1} if on_gpu else {"CPU": CPU_SHARE},
            ),
            run_config=RunConfig(
                # The name is the plan's key: the same plan goes on from its last checkpoint.
                name=plan.key + plan.trial,
                storage_path=str(storage.join(plan.corpus.storage, "train")),
                failure_config=FailureConfig(max_failures=plan.settings.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                logging_config=LoggingConfig(log_level="WARNING"),
                callbacks=list(callbacks) or None,
                worker_runtime_env={"env_vars": {} if on_gpu else CPU_ENVIRONMENT},
            ),
        ).fit()
    except TrainingFailedError as error:
        raise cluster.user_error_in(error) or error from None
    if result.checkpoint is None:
        raise RuntimeError(f"Training ended without a checkpoint: {result.error}")
    with result.checkpoint.as_directory() as folder:
        if plan.folder.exists():
            shutil.rmtree(plan.folder)
        shutil.copytree(Path(folder) / SAMPLER_FOLDER, plan.folder)
    return result.metrics


def take(plan: TrainPlan) -> None:
    """Put the sampler of ``train.warm_start`` in its place as it is."""
    teacher = teachers.load(plan.corpus.teacher, "cpu")
    sampler = new_sampler(plan.sampler, plan.settings, plan.seed, teacher)
    if plan.folder.exists():
        shutil.rmtree(plan.folder)
    sampler.save_pretrained(plan.folder)


def run(plan: TrainPlan, reporter: TrainReporter | None) -> dict[str, Any]:
    """:func:`fit`, or :func:`take` without steps, and what the manifest keeps of it."""
    verify_corpus(plan.corpus.folder)  # a damaged file is named here, not in a worker's traceback
    if not plan.settings.steps:
        take(plan)
        return {"warm_start": plan.settings.warm_start}
    begin = time.monotonic()
    metrics = fit(plan, [] if reporter is None else [reporter], plan.settings.workers)
    kept = {k: v for k, v in metrics.items() if k.startswith(("best", "loss", "step"))}
    workers = int(metrics["workers"])  # at the end
    return {"workers": workers, "seconds": round(time.monotonic() - begin, 1), **kept}


def main() -> None:
    from workflows import sweep  # which builds on this file

    config, out = entry.parse(__doc__)
    train_plan = plan(sweep.settled(config, out), out)
    require(train_plan.corpus)
    cluster.connect()
    with open_run(config, out) as tracker:
        run_once(train_plan, lambda: run(train_plan, tracker.train_reporter()))


if __name__ == "__main__":
    from workflows import train  # under its own name, as the workers import it

    entry.run(train.main)
