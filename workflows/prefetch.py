"""The command ``jointsampler prefetch``: fetch from the network what a configuration needs, ahead of its run.

    jointsampler prefetch --config dream-7b [section.field=value ...]
    jointsampler prefetch --config dream-7b --all-nodes

Afterwards the run works offline (HF_HUB_OFFLINE=1). Files go to the caches that a run
reads, below HF_HOME and JOINTSAMPLER_CACHE. The hub's client and the judge's download
lock each file, so processes of one node that need a file at the same time fetch it
once; this command decides when.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jointsampler.config import Config, load_config
from jointsampler.corpus import sources
from jointsampler.corpus.prompts import TASKS_SOURCE
from jointsampler.errors import UserError
from jointsampler.evaluation.judges import prepare_judge
from jointsampler.teachers.checkpoint import find_checkpoint, find_tokenizer
from workflows.cli import add_config, config_file


@dataclass(frozen=True)
class Fetched:
    """What a node has now."""

    node: str
    fingerprint: str  # of the teacher
    sizes: dict[str, int]  # what -> bytes in its folder
    seconds: float

    def __str__(self) -> str:
        has = ", ".join(f"{what} ({size / 1e9:.2f} GB)" for what, size in self.sizes.items())
        return f"{self.node}: {has}; {self.seconds:.0f} s"


def fetch_models(config: Config) -> Fetched:
    """Fetch teacher, tokenizer and judge to this node; UserError naming what cannot be had."""
    begin = time.monotonic()
    teacher, settings = config.teacher, config.evaluate
    checkpoint = find_checkpoint(teacher.name, teacher.revision)
    folders = {f"teacher {teacher.name}": checkpoint.folder}
    if teacher.tokenizer is not None:
        folders[f"tokenizer {teacher.tokenizer}"] = find_tokenizer(teacher.tokenizer).folder
    judge = prepare_judge(settings.judge, settings.judge_revision)
    if judge is not None:
        folders[f"judge {settings.judge}"] = Path(judge)
    sizes = {what: _bytes(folder) for what, folder in folders.items()}
    return Fetched(platform.node(), checkpoint.fingerprint, sizes, time.monotonic() - begin)


def fetch_prompts(config: Config) -> str | None:
    """Fetch the data set of the prompts to this node, where the driver will read it; its name."""
    name = config.corpus.prompts
    if name is None or name == TASKS_SOURCE or sources.is_file(name):
        return None
    next(sources.all_rows(name, config.corpus.revision), None)
    return name


def fetch_everywhere(config: Config) -> list[Fetched]:
    """:func:`fetch_models` once on each node of the cluster that is alive.

    Prints a line for each. Raises UserError naming the nodes that failed.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from workflows import cluster

    cluster.connect()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0)(fetch_models)
    waiting = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        waiting.append(task.options(scheduling_strategy=there).remote(config))
    done, failed = [], []
    for node, result in zip(nodes, waiting, strict=True):
        try:
            done.append(ray.get(result))
            print(f"prefetch: {done[-1]}", flush=True)
        except ray.exceptions.RayError as error:
            why = cluster.user_error_in(error) or str(error).strip().splitlines()[-1]
            failed.append(f"{node['NodeManagerAddress']}: {why}")
    if failed:
        raise UserError(f"{len(failed)} of {len(nodes)} nodes could not fetch: {'; '.join(failed)}")
    return done


def check_same(done: Sequence[Fetched]) -> None:
    """UserError where nodes hold different weights of the teacher."""
    by_fingerprint = {fetched.fingerprint: fetched.node for fetched in done}
    if len(by_fingerprint) > 1:
        held = ", ".join(f"{fingerprint} on {node}" for fingerprint, node in by_fingerprint.items())
        raise UserError(
            f"Nodes hold different weights of the teacher ({held}): pin one with teacher.revision, and "
            "prefetch again."
        )


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)
    config = load_config(config_file(args.config), args.overrides)
    prompts = fetch_prompts(config)
    if prompts is not None:
        print(f"prefetch: {platform.node()}: prompts {prompts}", flush=True)
    if args.all_nodes:
        check_same(fetch_everywhere(config))
    else:
        print(f"prefetch: {fetch_models(config)}", flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="jointsampler prefetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--all-nodes", action="store_true", help="on every node of the Ray cluster that is alive"
    )
    add_config(made)
    return made


def _bytes(folder: Path) -> int:
    """Of the files in the folder, links followed."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


if __name__ == "__main__":
    from jointsampler.cli import main as command

    sys.exit(command(["prefetch", *sys.argv[1:]]))
