"""Training workers as plain processes of this machine, with DeepSpeed and gloo and without Ray.

``train`` starts a fresh interpreter, which imports everything once and forks the
workers, so that five of them cost little more than one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROWS, HELD_OUT = 48, 4


def train(
    folder: Path, corpus: Path, world: int, until: int, begin: Path | None = None, **settings: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """(loss of every step made, weights) of ``world`` workers that go on to step ``until``.

    corpus: the rows, as ``torch.save`` wrote them; ``begin``: the folder of a training to go on
    from; settings: keys of train.
    """
    folder.mkdir(parents=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    request = {
        "folder": str(folder), "corpus": str(corpus), "world": world, "until": until,
        "begin": begin and str(begin), "settings": settings,
    }  # fmt: skip
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(request)],
        env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "losses.json").read_text()), torch.load(folder / "weights.pt")


def work(rank: int, request: dict[str, Any]) -> None:
    """One worker: the parts that ``workflows/train/loop.py`` builds, without Ray and validations."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    import deepspeed
    from ray.train import Checkpoint

    from jointsampler import JointSampler, load_teacher
    from jointsampler.config import TrainConfig
    from jointsampler.distill import TeacherStates
    from jointsampler.distill.trainer import Trainer
    from jointsampler.distill.validate import Place, Validator
    from workflows.train.checkpoint import ENGINE_TAG, STATE, resume
    from workflows.train.engine import SamplerEngine

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    folder, teacher = Path(request["folder"]), load_teacher("tiny", device="cpu")
    rows = torch.load(request["corpus"], weights_only=False)
    settings = TrainConfig(report_every=1, precision="float32", **request["settings"])
    place = Place(rank, request["world"])
    sampler, twin = (
        JointSampler.for_teacher(teacher, width=64, depth=3, seed=1, k_max=settings.k_max)
        for _ in range(2)
    )
    engine, state = SamplerEngine(sampler, settings, torch.device("cpu")), None
    if request["begin"]:
        state = resume(engine, Checkpoint.from_directory(request["begin"]), place)
    states = TeacherStates(twin.reading(teacher), rows.select(range(ROWS)), 0.5)
    held_out = rows.select(range(ROWS, ROWS + HELD_OUT))
    validator = Validator(teacher, held_out, [2], 1.0, "entropy", place)
    trainer = Trainer(states, engine, twin, validator, settings, 7, state)
    losses = []
    while trainer.state.step < request["until"]:
        trainer.make_step()
        losses.append(trainer.report()["loss"])
    engine.deepspeed.save_checkpoint(str(folder), tag=ENGINE_TAG)
    weights = engine.weights()
    if rank == 0:
        torch.save(dataclasses.asdict(trainer.state) | {"world": request["world"]}, folder / STATE)
        torch.save(weights, folder / "weights.pt")
        (folder / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    import deepspeed  # noqa: F401  # once, before the workers are forked
    import ray.train  # noqa: F401
    import transformers  # noqa: F401

    asked = json.loads(sys.argv[1])
    torch.multiprocessing.start_processes(
        work, (asked,), nprocs=asked["world"], start_method="fork"
    )
