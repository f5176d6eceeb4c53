"""A whole corpus: its manifest, and the check that it holds every row exactly once.

``corpus.json`` beside the shards says how they were made and what each must hold:
first and last row id, bytes and sha256. It is written last, so a folder with a
manifest was complete. Which shards need no further verification is in ``verified.py``;
:func:`read_rows` reads without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import storage
from ..errors import UserError
from ..storage import Location
from ..uris import shown
from .nearby import nearby
from .parquet import decode, read_parquet
from .trajectories import Trajectories

NAME = "corpus.json"
Part = Literal["all", "training", "held_out"]


class Shard(BaseModel):
    """One file with rows ``first`` to ``last``, both included, each once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    first: int
    last: int
    bytes: int
    sha256: str

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


class CorpusManifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str  # of the plan that made the corpus
    teacher: str
    fingerprint: str
    seed: int
    rows: int  # training rows; they come first
    held_out: int
    settings: dict[str, Any]  # of the decoding
    state_bytes: int  # one state of one row, for comparison: S x H in bfloat16, S without prompt
    shards: list[Shard]

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def digest(self) -> str:
        """Tells this corpus from every other: its settings, and the sha256 of each shard."""
        return storage.sha256(self.model_dump_json().encode())

    @property
    def share_of_all_states(self) -> float:
        """Bytes of the corpus divided by the bytes of all intermediate states of all rows."""
        steps = self.settings["max_new_tokens"]
        return self.bytes / (self.state_bytes * steps * (self.rows + self.held_out))

    def part(self, part: Part) -> range:
        """The row ids of a part of the corpus."""
        end = self.rows + self.held_out
        return {
            "all": range(end),
            "training": range(self.rows),
            "held_out": range(self.rows, end),
        }[part]


def describe(name: str, data: bytes, row_ids: Iterable[int]) -> Shard:
    """The manifest's entry of a shard with these contents."""
    ids = list(row_ids)
    return Shard(
        name=name, first=ids[0], last=ids[-1], bytes=len(data), sha256=storage.sha256(data)
    )


def read_manifest(folder: Location) -> CorpusManifest:
    """UserError where the manifest is missing, unreadable or damaged."""
    where = storage.join(folder, NAME)
    try:
        return CorpusManifest.model_validate_json(storage.read(where))
    except FileNotFoundError:
        raise UserError(
            f"{shown(folder)} has no {NAME}: the corpus is not finished. Run the corpus stage "
            "again; it goes on with the missing shards."
        ) from None
    except OSError as error:
        raise UserError(f"Cannot read {shown(where)}: {error}.") from None
    except ValidationError as error:
        raise UserError(
            f"{shown(where)} is damaged ({error.errors()[0]['msg']}): delete it and run the "
            "corpus stage again, which keeps the shards."
        ) from None


def write_manifest(folder: Location, manifest: CorpusManifest) -> None:
    storage.write_json(storage.join(folder, NAME), manifest.model_dump())


def verify_corpus(folder: Location) -> tuple[CorpusManifest, Trajectories]:
    """The manifest and all rows of a corpus in which every row is there exactly once.

    Reads every shard. Checked: each shard's sha256, its rows and their range, one seed,
    one teacher, orders without a repeated position, no shard that the manifest does
    not list. Raises UserError with everything that is wrong.
    """
    manifest = read_manifest(folder)
    check_manifest(folder, manifest)
    rows: list[Trajectories] = []
    damage = check_shards(folder, manifest, manifest.shards, rows)
    refuse_damage(folder, damage | strays(folder, manifest))
    return manifest, Trajectories.joined(rows)


def check_manifest(folder: Location, manifest: CorpusManifest) -> None:
    """UserError unless the manifest's shards hold every row once."""
    listed = [i for shard in manifest.shards for i in range(shard.first, shard.last + 1)]
    _check_ids(folder, sorted(listed), manifest.part("all"))


def strays(folder: Location, manifest: CorpusManifest) -> dict[str, str]:
    """Name -> damage of shards beside those of the manifest."""
    known = {shard.name for shard in manifest.shards}
    present = [name for name in sorted(storage.names(folder)) if name.endswith(".parquet")]
    return {name: "is not in the manifest" for name in present if name not in known}


def check_shards(
    folder: Location,
    manifest: CorpusManifest,
    shards: Sequence[Shard],
    rows: list[Trajectories] | None = None,
) -> dict[str, str]:
    """Name -> damage of the ``shards`` that are not what the manifest says; reads each once.

    Appends the rows of the others to ``rows``, if given. Raises UserError where a shard
    is what was written but holds rows of another seed, teacher or range.
    """
    damage = {}
    contents = storage.read_many(folder, [shard.name for shard in shards])
    for shard, data in zip(shards, contents, strict=True):
        if isinstance(data, OSError):
            missing = isinstance(data, FileNotFoundError)
            damage[shard.name] = "is missing" if missing else f"cannot be read ({data})"
        elif storage.sha256(data) != shard.sha256:
            damage[shard.name] = f"is not what was written ({len(data)} bytes, sha256 differs)"
        else:
            part = decode([(storage.join(folder, shard.name), data)])
            _check_rows(folder, manifest, part, range(shard.first, shard.last + 1))
            if rows is not None:
                rows.append(part)
    return damage


def refuse_damage(folder: Location, damage: Mapping[str, str]) -> None:
    """UserError with everything that is wrong, if anything is."""
    if damage:
        wrong = "; ".join(f"{name} {what}" for name, what in damage.items())
        raise UserError(
            f"Corpus {shown(folder)}: {wrong}. Run the corpus stage again: it makes "
            "what is missing or damaged anew, with the same rows."
        )


def read_rows(folder: Location, part: Part = "all") -> tuple[CorpusManifest, Trajectories]:
    """The manifest and the rows of a part of a corpus that the corpus stage has verified.

    Reads only the shards that hold the part, from a bucket once per node. Raises
    UserError where rows are missing or do not belong to the manifest.
    """
    manifest = read_manifest(folder)
    wanted = manifest.part(part)
    held = [s for s in manifest.shards if s.first < wanted.stop and s.last >= wanted.start]
    place = nearby(folder, manifest.digest, {s.name: (s.bytes, s.sha256) for s in held})
    names = [shard.name for shard in held]
    try:
        rows = read_parquet(place, names)
    except UserError:
        if place == folder:
            raise
        rows = read_parquet(folder, names)  # the node's copy was damaged since
    inside = (rows.row_ids >= wanted.start) & (rows.row_ids < wanted.stop)
    rows = rows.select(inside.nonzero()[:, 0])
    _check_rows(folder, manifest, rows, wanted)
    return manifest, rows


def split_corpus(folder: Location, verify: bool = True) -> tuple[Trajectories, Trajectories]:
    """(training, held-out) rows; ``verify=False`` skips the sha256, as :func:`read_rows` does."""
    manifest, rows = verify_corpus(folder) if verify else read_rows(folder)
    return rows.select(manifest.part("training")), rows.select(manifest.part("held_out"))


def _check_rows(
    folder: Location, manifest: CorpusManifest, rows: Trajectories, expected: range
) -> None:
    """UserError unless ``rows`` are the ``expected`` ids of the manifest's seed and teacher."""
    where = shown(folder)
    _check_ids(folder, rows.row_ids.tolist(), expected)
    if (rows.seed, rows.teacher) != (manifest.seed, manifest.fingerprint):
        raise UserError(
            f"Corpus {where} was sampled with seed {rows.seed} from teacher {rows.teacher}, and its "
            f"manifest says {manifest.seed} and {manifest.fingerprint}."
        )


def _check_ids(folder: Location, ids: Sequence[int], expected: range) -> None:
    if list(ids) != list(expected):
        raise UserError(
            f"Corpus {shown(folder)} holds {len(ids)} rows where {len(expected)} are due (row ids "
            f"{expected.start} to {expected.stop - 1})."
        )
