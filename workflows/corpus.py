"""Corpus: Ray Data actors, one teacher each, sample sequential trajectories to Parquet.

The unit of work is a shard. Its file appears under its name only when it is
complete, so an interrupted run loses at most the shard that each actor was
working on and continues with the missing ones. How rows are sampled is in
``jointsampler/corpus/sample.py``; this file distributes the shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointsampler import storage
from jointsampler.config import Config, CorpusConfig, TeacherConfig
from jointsampler.corpus.manifest import (
    NAME,
    CorpusManifest,
    Shard,
    describe,
    read_manifest,
    refuse_damage,
    strays,
    write_manifest,
)
from jointsampler.corpus.parquet import decode
from jointsampler.corpus.prompts import (
    PromptSource,
    corpus_prompts,
    first_prompts,
    prompt_source,
)
from jointsampler.corpus.sample import RowSampler, SampleSettings
from jointsampler.corpus.verified import marked, verify_once
from jointsampler.decoding.generate import Prompt, check_k, encode_prompts
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.prompts import longest_row
from jointsampler.decoding.sampling import Sampling
from jointsampler.errors import UserError
from jointsampler.memory import BatchSize
from jointsampler.storage import Location
from jointsampler.uris import shown
from workflows import cluster, teachers
from workflows.spread import Done, Worker, spread
from workflows.stage import Progress, ProgressLog, digest, out_folder

SETTINGS = "settings.json"  # beside the shards from the start: the key of the plan that makes them
PROMPTS = "prompts.json"  # beside them: one per row, written once
OF_PROMPTS = {"prompts", "prompt_template", "revision"}  # settings that ``source`` stands for
DECODING = {"max_new_tokens", "temperature", "top_p", "order", "prompts", "prompted", "chat"}


@dataclass(frozen=True)
class CorpusPlan:
    out: Path
    storage: Location  # the shards go to a folder in it
    teacher: TeacherConfig
    fingerprint: str
    hidden_size: int
    seed: int
    settings: CorpusConfig
    source: PromptSource | None  # of the prompts
    content: tuple[str, ...] | None  # what determines the source's prompts
    first_prompts: tuple[str, ...]  # some of them, for forecasts; () where a plan cannot have them

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

    def sampling(self, prompts: Sequence[Prompt] | None) -> SampleSettings:
        decoding = self.settings
        return SampleSettings(
            self.seed,
            decoding.max_new_tokens,
            decoding.temperature,
            decoding.top_p,
            decoding.order,
            None if prompts is None else tuple(prompts),
        )

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(exclude={"actors", *OF_PROMPTS})
        return digest(self.fingerprint, self.teacher.identity(), self.seed, settings, self.content)

    def intact(self) -> bool:
        """Whether the corpus of this plan is complete and whole; reads what was not verified before."""
        try:
            manifest = read_manifest(self.folder)
        except UserError:
            return False
        if self.source is not None and PROMPTS not in storage.names(self.folder):
            return False
        if manifest.key != self.key:
            return False
        try:
            return not verify_once(self.folder, manifest)
        except UserError:
            return False

    def name(self, index: int) -> str:
        return f"part-{index:05d}.parquet"

    def index(self, name: str) -> int:
        return int(name.removeprefix("part-").removesuffix(".parquet"))

    def row_ids(self, index: int) -> range:
        size = self.settings.rows_per_file
        return range(index * size, min((index + 1) * size, self.rows))


def home(config: Config, out: Path) -> Location:
    """Where corpus and training checkpoints are kept: ``run.storage``, else the out folder."""
    named = config.run.storage
    if named is None or storage.is_remote(named):
        return named or out
    return out_folder(named, "run.storage")


def plan(config: Config, out: Path) -> CorpusPlan:
    """The corpus to be made; raises every UserError that can be found before work starts."""
    settings = config.corpus
    teacher = teachers.describe(config.teacher)
    get_order(settings.order)
    Sampling(settings.temperature, settings.top_p)
    check_k(1, settings.max_new_tokens)
    encode_prompts(teacher, None, settings.max_new_tokens)  # for its checks alone
    source = prompt_source(
        settings.prompts, settings.prompt_template, settings.revision, settings.chat
    )
    first = () if source is None else first_prompts(source, config.run.seed)
    return CorpusPlan(
        out,
        home(config, out),
        config.teacher,
        teacher.fingerprint,
        teacher.hidden_size,
        config.run.seed,
        settings,
        source,
        None if source is None else source.identity(),
        first,
    )


def prepare(plan: CorpusPlan) -> None:
    """Reserve the folder and put the prompts into it, before work starts.

    Fetches the data set, unless an earlier run did. Raises UserError: another
    plan's folder, unreadable prompts, prompts that do not fit the teacher.
    """
    claim(plan)
    if plan.source is None or PROMPTS in storage.names(plan.folder):
        return
    settings = plan.settings
    prompts = corpus_prompts(plan.source, plan.rows, plan.seed, settings.prompted, settings.chat)
    encode_prompts(teachers.describe(plan.teacher), prompts, settings.max_new_tokens)
    storage.write_json(storage.join(plan.folder, PROMPTS), prompts)


def prompts_of(plan: CorpusPlan) -> list[Prompt] | None:
    """The prompt of every row, as :func:`prepare` wrote them; None where all are unconditional."""
    if plan.source is None:
        return None
    place = storage.join(plan.folder, PROMPTS)
    try:
        data = storage.read(place)  # a UserError where the storage is away
    except OSError as error:
        raise UserError(f"Cannot read {shown(place)} ({error}): run stage corpus again.") from None
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{shown(place)} holds no JSON ({error}): delete it, and run stage corpus again."
        ) from None


class TeacherActor(Worker):
    """One teacher in a process of its own; makes shards."""

    def load(self) -> None:
        plan = self.plan
        teacher = teachers.load_same(plan.teacher, plan.fingerprint)
        settings, prompts = plan.settings, prompts_of(plan)
        length = longest_row(teacher, prompts, settings.max_new_tokens)
        size = BatchSize.of(teacher, length, "corpus", settings.rows_per_file)
        self.sampler = RowSampler(teacher, plan.sampling(prompts), size)

    def do(self, index: int) -> Done:
        shard, seconds = self.make(index)
        return Done(shard.model_dump_json(), shard.rows, self.sampler.tokens, seconds)

    def make(self, index: int) -> tuple[Shard, float]:
        """Write shard ``index``; its manifest entry and the seconds of its decoding."""
        plan = self.plan
        return self.sampler.shard(plan.folder, plan.name(index), plan.row_ids(index))


def claim(plan: CorpusPlan) -> None:
    """Reserve the folder for this plan; UserError where it holds another plan's corpus."""
    storage.make_folder(plan.folder)
    settings = storage.join(plan.folder, SETTINGS)
    present = storage.names(plan.folder)
    if SETTINGS in present and json.loads(storage.read(settings))["key"] == plan.key:
        return
    if any(name.endswith(".parquet") for name in present):  # may have cost days: never deleted here
        raise UserError(
            f"{shown(plan.folder)} holds a corpus of other settings: give another --out, or "
            "delete that folder if it is no longer wanted."
        )
    for name in present & {PROMPTS, NAME}:  # of the other plan
        storage.delete(storage.join(plan.folder, name))
    storage.write_json(settings, {"key": plan.key, **plan.settings.model_dump()})


@dataclass
class Found:
    """What an earlier run left behind and is whole."""

    shards: dict[int, Shard]  # by index
    stamps: dict[str, storage.Stamp]  # of their files, before they were read


def found(plan: CorpusPlan) -> Found:
    """The whole shards that an earlier run left behind; reads those that were not verified before."""
    stamps = storage.stamps(plan.folder)
    known, trusted = {}, {}
    if NAME in stamps:
        manifest = read_manifest(plan.folder)
        known, trusted = {s.name: s for s in manifest.shards}, marked(plan.folder, manifest)
    present = {plan.name(index): index for index in range(plan.shards)}
    whole = [n for n in present if n in known and trusted.get(n) == stamps.get(n, ())]
    shards = {present[name]: known[name] for name in whole}
    unread = [name for name in present if name in stamps and present[name] not in shards]
    for name, data in zip(unread, storage.read_many(plan.folder, unread), strict=True):
        shard = shard_of(plan, present[name], data)
        if shard is not None and known.get(name, shard) == shard:
            shards[present[name]] = shard
        else:
            print(f"corpus: {name} is damaged and will be made again", flush=True)
    return Found(shards, {shard.name: stamps[shard.name] for shard in shards.values()})


def shard_of(plan: CorpusPlan, index: int, data: bytes | OSError) -> Shard | None:
    """The manifest's entry of a file with the rows of shard ``index``; None where it holds others."""
    if isinstance(data, OSError):
        return None
    ids, name = plan.row_ids(index), plan.name(index)
    try:
        rows = decode([(name, data)])
    except UserError:
        return None
    same = (rows.seed, rows.teacher) == (plan.seed, plan.fingerprint)
    return describe(name, data, ids) if same and rows.row_ids.tolist() == list(ids) else None


def finish(
    plan: CorpusPlan, shards: dict[int, Shard], known: Mapping[str, storage.Stamp] | None = None
) -> CorpusManifest:
    """Write the manifest of a corpus whose shards are all there, and verify what is not ``known`` to be whole."""
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
    damage = verify_once(plan.folder, manifest, known)
    refuse_damage(plan.folder, damage | strays(plan.folder, manifest))
    return manifest


def run(
    plan: CorpusPlan, log: ProgressLog | None = None, heartbeat_s: float = 60.0
) -> dict[str, Any]:
    """Make the missing shards and verify the corpus; returns its counts."""
    prepare(plan)
    earlier = found(plan)
    shards = earlier.shards
    missing = [index for index in range(plan.shards) if index not in shards]
    progress = Progress("corpus", plan.rows, "rows", log)
    progress.skip(sum(shard.rows for shard in shards.values()))
    reused, seconds = len(shards), 0.0
    if missing:
        pool = cluster.pool(plan.settings.actors, plan.teacher.device)
        for row in spread(TeacherActor, plan, missing, pool, progress, heartbeat_s):
            shard = Shard.model_validate_json(row["result"])
            shards[plan.index(shard.name)] = shard
            progress.advance(shard.rows)
            seconds += row["seconds"]
    manifest = finish(plan, shards, earlier.stamps)
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
