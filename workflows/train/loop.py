"""The function of each Ray Train worker: build the parts, go on from a checkpoint, train, report."""

from __future__ import annotations

import copy
import logging
import sys
import time
import warnings
from functools import partial
from typing import Any

import ray
import ray.train
import transformers

from jointsampler import JointSampler, Teacher, Trajectories
from jointsampler.config import TrainConfig
from jointsampler.corpus.manifest import split_corpus
from jointsampler.distill import TeacherStates
from jointsampler.distill.batch import shares
from jointsampler.distill.parts import fitting_parts
from jointsampler.distill.positions import rows_of
from jointsampler.distill.trainer import Trainer, distill_settings
from jointsampler.distill.validate import Place, Validator
from jointsampler.evaluation.cost import update_cost
from workflows import teachers
from workflows.train import checkpoint
from workflows.train.engine import SamplerEngine, precision
from workflows.train.gpu_share import stay_in_share
from workflows.train.memory import check_memory, memory_in_one_sentence
from workflows.train.plan import TrainPlan, new_sampler, training_rows

COST_BATCH = 16  # rows of the canvas on which the sampler's cost is measured


def train_loop(plan: TrainPlan) -> None:
    quiet()
    context = ray.train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size())
    device = ray.train.torch.get_device()
    stay_in_share(device, ray.get_runtime_context().get_assigned_resources().get("GPU", 1))
    teacher = teachers.load_same(plan.corpus.teacher, plan.corpus.fingerprint, str(device))
    rows, held_out = read_rows(plan, teacher)
    sampler = new_sampler(plan.sampler, plan.columns, plan.settings, plan.seed, teacher)
    twin = copy.deepcopy(sampler).eval()  # outside the engine, for validations and checkpoints
    states = TeacherStates(twin.reading(teacher), rows, plan.settings.cache_gib)
    keep_states(states, plan, place, context.get_local_world_size())
    settings = in_parts(plan.settings, states, twin, place)
    engine = SamplerEngine(sampler, settings, device)
    saved = ray.train.get_checkpoint()
    state = None if saved is None else checkpoint.resume(engine, saved, place)
    decoding = plan.corpus.settings
    cost = update_cost(teacher, twin, COST_BATCH, rows.length, decoding.order).ratio
    # A greedy corpus has one token per state, to which no KL is finite: it is validated at T = 1.
    temperature = decoding.temperature or 1.0
    held_out = held_out.select(range(min(plan.settings.validate_rows, len(held_out))))
    validator = Validator(
        teacher, held_out, plan.settings.validate_k, temperature, decoding.order, place
    )
    trainer = Trainer(states, engine, twin, validator, settings, plan.seed, state)

    def emit(metrics: dict[str, Any], due: bool) -> None:
        if any(name.startswith("captured") for name in metrics):
            metrics["cost_ratio"] = cost
        if due:
            checkpoint.save(trainer, engine, metrics)
        else:
            checkpoint.report(metrics)

    with memory_in_one_sentence(settings):
        trainer.run(emit)
    if place.rank == 0 and trainer.state.step < plan.settings.steps:
        say(
            f"no better than step {trainer.state.best_step} for {trainer.state.waited} validations, "
            f"stopped at step {trainer.state.step}"
        )


def in_parts(
    settings: TrainConfig, states: TeacherStates, twin: JointSampler, place: Place
) -> TrainConfig:
    """``settings`` with as many parts of a step as this training's devices need."""
    distill = distill_settings(settings)
    limits = partial(precision, settings, states.teacher.device)
    parts = fitting_parts(states, twin, settings, distill, place, limits)
    if place.rank == 0 and parts != settings.accumulate:
        say(f"a worker's share of a step does not fit into its memory and is cut into {parts}")
    return settings.model_copy(update={"accumulate": parts})


def quiet() -> None:
    """Leave stderr to the one line per report that the reporter prints."""
    logging.getLogger().setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    transformers.utils.logging.disable_progress_bar()


def say(text: str) -> None:
    print(f"train: {text}", file=sys.stderr, flush=True)


def read_rows(plan: TrainPlan, teacher: Teacher) -> tuple[Trajectories, Trajectories]:
    """(training, held-out) rows; UserError where they are another teacher's."""
    rows, held_out = split_corpus(plan.corpus.folder, verify=False)  # the corpus stage verified it
    rows.check_teacher(teacher)
    return rows.select(training_rows(plan.settings, len(rows))), held_out


def keep_states(states: TeacherStates, plan: TrainPlan, place: Place, workers_here: int) -> None:
    """Compute and keep the teacher's states of this worker's rows, as far as train.cache_gib goes."""
    settings = plan.settings
    if not settings.cache_gib:
        return
    share = shares(settings.batch_size, place.world)[place.rank]
    own = rows_of(share, settings.batch_size, len(states.trajectories))
    check_memory(states, own, settings, workers_here)
    begin = time.monotonic()
    with precision(settings, states.teacher.device):
        states.fill(own)
    if place.rank == 0:
        say(
            f"kept the teacher's states of {len(states.kept)} rows a worker "
            f"({states.bytes / 2**20:.0f} MiB) in {time.monotonic() - begin:.0f} s"
        )
