"""Corpus: Ray Data actors, one teacher each, sample sequential trajectories to Parquet.

    python workflows/corpus.py --config workflows/configs/quickstart.yaml --out DIR

The unit of work is a shard: an actor samples its rows and the file appears under
its name only when complete, so a run that was cut off loses at most the shard
that each actor had in hand and goes on with the missing ones. A row depends on
(seed, row id) and the settings alone, so every row is there exactly once,
whatever happened. A second round may hold states that a trained sampler unrolled
itself (corpus.on_policy), which the teacher then answers in training. ``jointsampler verify-corpus FOLDER`` checks it.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
import torch

from jointsampler import JointSampler, Teacher, Trajectories, generate, storage
from jointsampler.config.schema import Config, CorpusConfig, TeacherConfig
from jointsampler.corpus.manifest import (
    NAME,
    CorpusManifest,
    Shard,
    damaged,
    describe,
    read_manifest,
    targets_name,
    verify_corpus,
    write_manifest,
)
from jointsampler.corpus.parquet import decode, encode
from jointsampler.decoding.generate import Prompt, check_k, encode_prompts
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.distill import OfflineSettings, Recorder, encode_targets
from jointsampler.errors import UserError
from jointsampler.memory import largest_fitting
from jointsampler.sampler.model import sampler_folder, spaced_layers
from jointsampler.storage import Location
from jointsampler.tasks import TASKS, examples
from workflows import cluster, entry, teachers
from workflows.stage import Progress, digest, run_once

SETTINGS = "settings.json"  # beside the shards from the start: the key that they are made with
DECODING = {
    "max_new_tokens",
    "temperature",
    "top_p",
    "order",
    "prompts",
    "prompted",
    "chat",
    "on_policy",
}


@dataclass(frozen=True)
class CorpusPlan:
    out: Path
    storage: Location  # the shards' home is a folder in it
    teacher: TeacherConfig
    fingerprint: str
    hidden_size: int
    seed: int
    settings: CorpusConfig
    prompts: tuple[Prompt, ...] | None  # one per row
    offline: OfflineSettings | None  # targets kept beside the shards

    stage = "corpus"

    @property
    def folder(self) -> Location:
        return storage.join(self.storage, "corpus")

    @property
    def rows(self) -> int:
        return self.settings.rows + self.settings.held_out

    @property
    def shards(self) -> int:
        return -(-self.rows // self.settings.rows_per_file)

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(
            exclude={"actors", "prompts", "sampler", "anchors", "top", "depths"}
        )
        start = self.settings.sampler
        kept = None if self.offline is None else dataclasses.asdict(self.offline)
        weights = start and storage.sha256(
            (sampler_folder(start) / "model.safetensors").read_bytes()
        )
        return digest(
            self.fingerprint,
            self.teacher.identity(),
            self.seed,
            settings,
            self.prompts,
            weights,
            kept,
        )

    def intact(self) -> bool:
        try:
            manifest = read_manifest(self.folder)
        except UserError:
            return False
        return manifest.key == self.key and not damaged(self.folder, manifest.shards)

    def name(self, index: int) -> str:
        return f"part-{index:05d}.parquet"

    def index(self, name: str) -> int:
        return int(name.removeprefix("part-").removesuffix(".parquet"))

    def is_on_policy(self, row: int) -> bool:
        """Training rows alone: held-out ones are always the teacher's."""
        share = self.settings.on_policy
        return row < self.settings.rows and (
            random.Random(f"{self.seed}/on-policy/{row}").random() < share
        )

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


def home(config: Config, out: Path) -> Location:
    """Where corpus and training checkpoints live: ``run.storage``, else the out folder."""
    named = config.run.storage
    if named is None or storage.is_remote(named):
        return named or out
    return entry.out_folder(named, "run.storage")


def offline_settings(config: Config, teacher: Teacher) -> OfflineSettings | None:
    """What is kept for training, which follows from how it will train; None without anchors."""
    settings, training = config.corpus, config.train
    if not settings.anchors:
        return None
    if settings.on_policy:
        raise UserError(
            "corpus.anchors keeps the teacher's states while it samples, and corpus.on_policy rows are "
            "sampled by the sampler: set one of them to 0."
        )
    if settings.anchors >= settings.max_new_tokens:
        raise UserError(
            f"corpus.anchors={settings.anchors} exceeds the {settings.max_new_tokens - 1} states of a "
            "row that training may start from."
        )
    return OfflineSettings(
        settings.anchors,
        min(settings.top, teacher.vocab_size - len(teacher.forbidden_ids)),
        settings.depths or training.k_max - 1,
        training.near,
        training.far,
        training.near_share,
        tuple(spaced_layers(teacher, config.sampler.features)),
        config.sampler.window,
    )


def plan(config: Config, out: Path) -> CorpusPlan:
    """The corpus to be made; every user error that can be found is found here."""
    settings = config.corpus
    teacher = teachers.describe(config.teacher)
    get_order(settings.order)
    Sampling(settings.temperature, settings.top_p)
    check_k(1, settings.max_new_tokens)
    if settings.sampler is not None:
        loaded = JointSampler.from_pretrained(settings.sampler)
        loaded.check_fingerprint(teacher)
    elif settings.on_policy:
        raise UserError(
            "corpus.on_policy needs corpus.sampler: a sampler trained on a first corpus, whose states "
            "the second one holds."
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
    return CorpusPlan(
        out,
        home(config, out),
        config.teacher,
        teacher.fingerprint,
        teacher.hidden_size,
        config.run.seed,
        settings,
        prompts,
        offline_settings(config, teacher),
    )


@dataclass(frozen=True)
class Sampled:
    rows: Trajectories
    seen: dict[tuple[int, int], torch.Tensor]  # what offline targets are made of
    seconds: float


class TeacherActor:
    """One teacher; samples the rows of a shard and writes it."""

    def __init__(self, plan: CorpusPlan):
        self.plan, self.teacher = plan, teachers.load(plan.teacher)
        self.batch = plan.settings.rows_per_file  # until it does not fit into memory
        self.sampler = None
        if plan.settings.sampler is not None:
            loaded = JointSampler.from_pretrained(plan.settings.sampler)
            self.sampler = loaded.to(self.teacher.device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        made = [self.make(index) for index in batch["index"].tolist()]
        return {"shard": [json.dumps(shard.model_dump()) for shard, _ in made],
                "seconds": [seconds for _, seconds in made]}  # fmt: skip

    def make(self, index: int) -> tuple[Shard, float]:
        plan, ids = self.plan, self.plan.row_ids(index)
        try:
            own = [i for i in ids if plan.is_on_policy(i)]
            parts = [
                self.sample(rows, on_policy)
                for rows, on_policy in (([i for i in ids if i not in own], False), (own, True))
                if rows
            ]
            rows = Trajectories.joined([part.rows for part in parts])
            data, targets = encode(rows), None
            if plan.offline is not None:
                seen = {key: states for part in parts for key, states in part.seen.items()}
                targets = encode_targets(self.teacher, seen, rows, plan.offline)
                # Before the shard itself: where that is, everything of it is.
                name = targets_name(plan.name(index))
                storage.write(storage.join(plan.folder, name), targets)
            storage.write(storage.join(plan.folder, plan.name(index)), data)
        except Exception as error:
            raise UserError(
                f"Corpus rows {ids[0]} to {ids[-1]} ({plan.name(index)}) could not be made: {error}"
            ) from error
        shard = describe(plan.name(index), data, ids, targets)
        return shard, sum(part.seconds for part in parts)

    def sample(self, ids: list[int], on_policy: bool) -> Sampled:
        """The trajectories of the rows ``ids``: the teacher's, or those of the sampler on it."""

        def run(batch_size: int) -> list[Sampled]:
            return [
                self.sample_batch(ids[at : at + batch_size], on_policy)
                for at in range(0, len(ids), batch_size)
            ]

        batches, self.batch = largest_fitting(run, self.batch)
        return Sampled(
            Trajectories.joined([batch.rows for batch in batches]),
            {key: states for batch in batches for key, states in batch.seen.items()},
            sum(batch.seconds for batch in batches),
        )

    def sample_batch(self, ids: list[int], on_policy: bool) -> Sampled:
        plan, settings, teacher = self.plan, self.plan.settings, self.teacher
        if plan.offline is not None:
            teacher = Recorder(teacher, torch.tensor(ids), settings.max_new_tokens, plan.offline)
        generation = generate(
            teacher,
            self.sampler if on_policy else None,
            prompts=None if plan.prompts is None else [plan.prompts[i] for i in ids],
            method="joint" if on_policy else "sequential",
            k=min(self.sampler.config.k_max, settings.max_new_tokens) if on_policy else 1,
            num_samples=len(ids) if plan.prompts is None else 1,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            order=settings.order,
            seed=plan.seed,
            batch_size=len(ids),
            row_ids=ids,
        )
        rows = Trajectories.from_generation(generation, plan.seed, self.teacher, on_policy)
        seen = {} if plan.offline is None else teacher.states
        return Sampled(rows, seen, generation.seconds)


def claim(plan: CorpusPlan) -> None:
    """Make the folder this plan's own; UserError where another's corpus is in it."""
    storage.make_folder(plan.folder)
    settings = storage.join(plan.folder, SETTINGS)
    present = storage.names(plan.folder)
    if SETTINGS in present and json.loads(storage.read(settings))["key"] == plan.key:
        return
    if any(name.endswith(".parquet") for name in present):  # may have cost days: never deleted here
        raise UserError(
            f"{storage.shown(plan.folder)} holds a corpus of other settings: give another --out, or "
            "delete that folder if it is no longer wanted."
        )
    text = json.dumps({"key": plan.key, **plan.settings.model_dump()}, indent=1)
    storage.write(settings, text.encode())


def found(plan: CorpusPlan) -> dict[int, Shard]:
    """The shards that an earlier run left behind and that are what they should be, by index."""
    present, shards = storage.names(plan.folder), {}
    known = {}
    if NAME in present:
        known = {shard.name: shard for shard in read_manifest(plan.folder).shards}
    for index in range(plan.shards):
        name = plan.name(index)
        if name not in present:
            continue
        data = storage.read(storage.join(plan.folder, name))
        targets = None
        if plan.offline is not None:
            kept = targets_name(name)
            if kept not in present:
                continue
            targets = storage.read(storage.join(plan.folder, kept))
        shard = describe(name, data, plan.row_ids(index), targets)
        try:
            rows = decode([(name, data)])
            whole = rows.row_ids.tolist() == list(plan.row_ids(index))
            whole &= (rows.seed, rows.teacher) == (plan.seed, plan.fingerprint)
            whole &= known.get(name, shard) == shard
        except UserError:
            whole = False
        if whole:
            shards[index] = shard
        else:
            print(f"corpus: {name} is damaged and will be made again", flush=True)
    return shards


def finish(plan: CorpusPlan, shards: dict[int, Shard]) -> CorpusManifest:
    """Write the manifest of a corpus whose shards are all there, and hold the corpus against it."""
    manifest = CorpusManifest(
        key=plan.key,
        teacher=plan.teacher.name,
        fingerprint=plan.fingerprint,
        seed=plan.seed,
        rows=plan.settings.rows,
        held_out=plan.settings.held_out,
        settings=plan.settings.model_dump(include=DECODING),
        state_bytes=2 * plan.settings.max_new_tokens * plan.hidden_size,
        shards=[shards[index] for index in sorted(shards)],
    )
    write_manifest(plan.folder, manifest)
    verify_corpus(plan.folder)
    return manifest


def run(plan: CorpusPlan) -> dict[str, Any]:
    """Make the missing shards, check the whole, and say what there is."""
    claim(plan)
    shards = found(plan)
    missing = [index for index in range(plan.shards) if index not in shards]
    progress = Progress("corpus", plan.rows, "rows")
    progress.skip(sum(shard.rows for shard in shards.values()))
    reused, seconds = len(shards), 0.0
    if missing:
        pool = cluster.pool(plan.settings.actors, plan.teacher.device)
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
        for row in cluster.told(done.iter_rows()):
            shard = Shard.model_validate_json(row["shard"])
            shards[plan.index(shard.name)] = shard
            progress.advance(shard.rows)
            seconds += row["seconds"]
    manifest = finish(plan, shards)
    print(
        f"corpus: {plan.rows} rows, each once, in {plan.shards} shards, {reused} of them from an "
        f"earlier run; 1/{1 / manifest.share_of_all_states:.0f} of the bytes of all states",
        flush=True,
    )
    return {
        "rows": plan.settings.rows,
        "held_out": plan.settings.held_out,
        "shards": plan.shards,
        "reused": reused,
        "bytes": manifest.bytes,
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
