"""Checkpoints: the engine's shards, the state of the training, and the best sampler so far."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode

from jointsampler.distill.trainer import Trainer, TrainState
from jointsampler.distill.validate import Place
from workflows.train.engine import SamplerEngine
from workflows.train.reshard import load_resharded

ENGINE_TAG, STATE, SAMPLER_FOLDER = "engine", "state.pt", "sampler"


def save(trainer: Trainer, engine: SamplerEngine, metrics: dict[str, Any]) -> None:
    """Report with a checkpoint: every worker adds its shard, and Ray Train merges them into one.

    The training goes on while the files are copied to the storage. A failure of the
    copy ends it all the same: the worker then fails with the storage's error.
    """
    folder = tempfile.mkdtemp()  # Ray Train deletes it after the copy
    engine.deepspeed.save_checkpoint(folder, tag=ENGINE_TAG)
    if trainer.place.rank == 0:
        state = {**dataclasses.asdict(trainer.state), "world": trainer.place.world}
        torch.save(state, Path(folder) / STATE)
        trainer.sampler.save_pretrained(Path(folder) / SAMPLER_FOLDER)
    report(
        metrics,
        checkpoint=Checkpoint.from_directory(folder),
        checkpoint_dir_name=f"step_{trainer.state.step:06d}",
    )


def report(metrics: dict[str, Any], **checkpoint: Any) -> None:
    """Report to Ray Train without waiting, in order: a report behind a checkpoint waits for its copy."""
    mode = CheckpointUploadMode.ASYNC
    ray.train.report(metrics, checkpoint_upload_mode=mode, **checkpoint)


def resume(engine: SamplerEngine, checkpoint: Checkpoint, place: Place) -> TrainState:
    """Load the engine and return the state, both as ``checkpoint`` holds them.

    With another number of workers ZeRO 1 and 2 cut the optimizer's state anew. ZeRO-3
    starts it afresh, and a line on stderr says so.
    """
    with checkpoint.as_directory() as folder:
        saved = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
        stage = engine.settings.zero_stage
        same = saved.pop("world") == place.world or not stage  # without ZeRO it is whole
        engine.deepspeed.load_checkpoint(
            folder, tag=ENGINE_TAG, load_module_only=not same, load_optimizer_states=same
        )
        if not same and stage < 3:
            load_resharded(engine.deepspeed, Path(folder) / ENGINE_TAG)
    state = TrainState(**saved)
    if not same:
        for _ in range(state.step):  # the schedule goes on where it was
            engine.deepspeed.lr_scheduler.step()
    if place.rank == 0:
        fresh = "" if same or stage < 3 else ", with a fresh optimizer"
        print(
            f"train: going on from step {state.step} on {place.world} workers{fresh}",
            file=sys.stderr,
            flush=True,
        )
    return state
