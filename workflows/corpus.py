"""Corpus: Ray Data actors, one teacher each, sample sequential trajectories to Parquet.

    python workflows/corpus.py --config workflows/configs/quickstart.yaml --out DIR

The unit of work is a file: an actor samples its rows and writes it under its
final name only when complete, so a run that was cut off goes on with the files
that are missing. A row depends on (seed, row id) and the settings alone.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray

from jointsampler import Trajectories, generate
from jointsampler.config import Config, CorpusConfig, TeacherConfig
from jointsampler.decoding.generate import Prompt, check_k, encode_prompts
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.errors import UserError
from jointsampler.tasks import TASKS, examples
from jointsampler.trajectories import read_parquet, write_parquet
from workflows import cluster, entry, teachers
from workflows.stage import Progress, digest, run_once, write_json

SETTINGS = "settings.json"  # beside the files: the key that they were made with


@dataclass(frozen=True)
class CorpusPlan:
    out: Path
    teacher: TeacherConfig
    fingerprint: str
    seed: int
    settings: CorpusConfig
    prompts: tuple[Prompt, ...] | None  # one per row

    stage = "corpus"

    @property
    def folder(self) -> Path:
        return self.out / "corpus"

    @property
    def rows(self) -> int:
        return self.settings.rows + self.settings.held_out

    @property
    def files(self) -> list[Path]:
        count = -(-self.rows // self.settings.rows_per_file)
        return [self.folder / f"part-{index:05d}.parquet" for index in range(count)]

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(exclude={"actors", "prompts"})
        return digest(self.fingerprint, self.teacher.identity(), self.seed, settings, self.prompts)

    @property
    def outputs(self) -> list[Path]:
        return self.files

    def row_ids(self, index: int) -> range:
        size = self.settings.rows_per_file
        return range(index * size, min((index + 1) * size, self.rows))


def as_chat(prompts: tuple[str, ...]) -> tuple[tuple[dict[str, str], ...], ...]:
    """Each prompt as the user's turn of a conversation."""
    return tuple(({"role": "user", "content": prompt},) for prompt in prompts)


def read_prompts(source: str, count: int, seed: int) -> tuple[str, ...]:
    """``count`` prompts, cycling where the source has fewer.

    The source is a file, a data set on the hub, or the built-in tasks.
    """
    if source == "tasks":
        names = sorted(TASKS)
        made = {name: examples(TASKS[name], seed, -(-count // len(names))) for name in names}
        return tuple(made[names[i % len(names)]][i // len(names)].prompt for i in range(count))
    import datasets  # seconds, and only needed here

    kinds = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
    path = Path(source).expanduser()
    kind = kinds.get(path.suffix)
    if kind and not path.is_file():
        raise UserError(f"corpus.prompts={source!r}: there is no such file.")
    column = "text" if kind == "text" else "prompt"
    try:
        if kind:
            data = datasets.load_dataset(kind, data_files=str(path), split="train")
        else:
            data = datasets.load_dataset(source, split="train")
        prompts = [prompt for prompt in data[column] if prompt != ""]
    except Exception as error:  # the library raises dozens of types here
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Cannot read prompts from corpus.prompts={source!r} ({reason}): give a .jsonl or .parquet "
            "file or a hub data set with a column 'prompt', a .txt file with one prompt a line, or 'tasks'."
        ) from None
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(f"corpus.prompts={source!r} holds no prompts, or some that are not text.")
    return tuple(prompts[i % len(prompts)] for i in range(count))


def thin_out(prompts: tuple[Prompt, ...], share: float, seed: int) -> tuple[Prompt, ...]:
    """Empty prompts, which are unconditional rows, in place of all but ``share`` of the prompts."""
    return tuple(
        prompt if random.Random(f"{seed}/prompted/{row}").random() < share else ""
        for row, prompt in enumerate(prompts)
    )


def plan(config: Config, out: Path) -> CorpusPlan:
    """The corpus to be made; every user error that can be found is found here."""
    settings = config.corpus
    teacher = teachers.describe(config.teacher)
    get_order(settings.order)
    Sampling(settings.temperature, settings.top_p)
    check_k(1, settings.max_new_tokens)
    if config.train.k_max > settings.max_new_tokens:
        raise UserError(
            f"train.k_max={config.train.k_max} exceeds corpus.max_new_tokens="
            f"{settings.max_new_tokens}: no block can be longer than the response."
        )
    prompts = None
    if settings.prompts is not None:
        count = settings.rows + settings.held_out
        prompts = read_prompts(settings.prompts, count, config.run.seed)
        if settings.chat:
            prompts = as_chat(prompts)
        prompts = thin_out(prompts, settings.prompted, config.run.seed)
    elif settings.chat:
        raise UserError(
            "corpus.chat=true needs prompts to put into the template: set corpus.prompts."
        )
    encode_prompts(teacher, prompts, settings.max_new_tokens)
    return CorpusPlan(out, config.teacher, teacher.fingerprint, config.run.seed, settings, prompts)


class TeacherActor:
    """One teacher; samples the rows of a file and writes it."""

    def __init__(self, plan: CorpusPlan):
        self.plan, self.teacher = plan, teachers.load(plan.teacher)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts, seconds = [], []
        for index in batch["index"].tolist():
            plan, settings = self.plan, self.plan.settings
            ids = plan.row_ids(index)
            generation = generate(
                self.teacher,
                prompts=None if plan.prompts is None else [plan.prompts[i] for i in ids],
                method="sequential",
                k=1,
                num_samples=len(ids) if plan.prompts is None else 1,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                order=settings.order,
                seed=plan.seed,
                batch_size=len(ids),
                row_ids=ids,
            )
            rows = Trajectories.from_generation(generation, plan.seed, self.teacher)
            write_parquet(rows, plan.files[index])
            counts.append(len(ids))
            seconds.append(generation.seconds)
        return {"index": batch["index"], "rows": counts, "seconds": seconds}


def run(plan: CorpusPlan) -> dict[str, Any]:
    """Make the missing files, check the whole, and say what there is."""
    plan.folder.mkdir(exist_ok=True)
    settings = plan.folder / SETTINGS
    if not settings.exists() or json.loads(settings.read_text())["key"] != plan.key:
        if any(plan.folder.glob("*.parquet")):  # may have cost days: never deleted here
            raise UserError(
                f"{plan.folder} holds a corpus of other settings: give another --out, or delete that "
                "folder if it is no longer wanted."
            )
        write_json(settings, {"key": plan.key, **plan.settings.model_dump()})
    missing = [index for index, path in enumerate(plan.files) if not path.exists()]
    progress = Progress("corpus", plan.rows, "rows")
    progress.advance(plan.rows - sum(len(plan.row_ids(index)) for index in missing))
    seconds = 0.0
    if missing:
        pool = cluster.pool(plan.settings.actors)
        items = ray.data.from_items(
            [{"index": index} for index in missing], override_num_blocks=len(missing)
        )
        done = items.map_batches(
            TeacherActor,
            fn_constructor_args=(plan,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(pool.size, len(missing))),
            **pool.resources,
        )
        for row in done.iter_rows():
            progress.advance(row["rows"])
            seconds += row["seconds"]
    rows = read_parquet(plan.files)
    if len(rows) != plan.rows:
        raise UserError(
            f"The corpus in {plan.folder} has {len(rows)} rows, not {plan.rows}: delete the folder and "
            "run the corpus stage again."
        )
    size = sum(path.stat().st_size for path in plan.files)
    return {
        "rows": plan.settings.rows,
        "held_out": plan.settings.held_out,
        "files": len(plan.files),
        "bytes": size,
        "actor_seconds": round(seconds, 2),
    }


def main() -> None:
    config, out = entry.parse(__doc__)
    corpus_plan = plan(config, out)
    cluster.connect()
    run_once(corpus_plan, lambda: run(corpus_plan))


if __name__ == "__main__":
    from workflows import corpus  # under its own name, as the workers import it

    entry.run(corpus.main)
