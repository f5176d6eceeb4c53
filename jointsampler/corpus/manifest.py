"""A corpus as a whole: its manifest, and the check that every row is there exactly once.

``corpus.json`` beside the shards says how they were made and what each must be:
rows, first and last row id, bytes and sha256. It is written last, so a folder
with a manifest was complete. A shard's inside is ``trajectories.py``'s business,
making shards the corpus stage's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import storage
from ..errors import UserError
from ..storage import Location
from .parquet import decode
from .trajectories import Trajectories

NAME = "corpus.json"


class Shard(BaseModel):
    """One file: rows ``first`` to ``last``, both included, each once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    first: int
    last: int
    bytes: int
    sha256: str
    targets_bytes: int = 0  # of the offline targets beside it, if the corpus keeps any
    targets_sha256: str | None = None

    @property
    def targets(self) -> str:
        return targets_name(self.name)

    @property
    def rows(self) -> int:
        return self.last - self.first + 1


class CorpusManifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str  # of the plan that it follows from
    teacher: str
    fingerprint: str
    seed: int
    rows: int  # training rows; they come first
    held_out: int
    settings: dict[str, Any]  # decoding
    state_bytes: int  # of one state of one row, for comparison: S x H in bfloat16, S without prompt
    shards: list[Shard]

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def share_of_all_states(self) -> float:
        """Bytes of the corpus per byte of keeping every intermediate state of every row."""
        steps = self.settings["max_new_tokens"]
        return self.bytes / (self.state_bytes * steps * (self.rows + self.held_out))


def targets_name(shard: str) -> str:
    """The file of a shard's offline targets."""
    return shard.replace(".parquet", ".targets.safetensors")


def describe(name: str, data: bytes, row_ids: Iterable[int], targets: bytes | None = None) -> Shard:
    """What the manifest says of a shard with these contents, and offline targets if any."""
    ids = list(row_ids)
    return Shard(
        name=name,
        first=ids[0],
        last=ids[-1],
        bytes=len(data),
        sha256=storage.sha256(data),
        targets_bytes=0 if targets is None else len(targets),
        targets_sha256=None if targets is None else storage.sha256(targets),
    )


def read_manifest(folder: Location) -> CorpusManifest:
    """UserError where there is none, or one that nobody here wrote."""
    where = storage.join(folder, NAME)
    try:
        return CorpusManifest.model_validate_json(storage.read(where))
    except FileNotFoundError:
        raise UserError(
            f"{storage.shown(folder)} has no {NAME}: the corpus is not finished. Run the corpus stage "
            "again; it goes on with the missing shards."
        ) from None
    except OSError as error:
        raise UserError(f"Cannot read {storage.shown(where)}: {error}.") from None
    except ValidationError as error:
        raise UserError(
            f"{storage.shown(where)} is damaged ({error.errors()[0]['msg']}): delete it and run the "
            "corpus stage again, which keeps the shards."
        ) from None


def write_manifest(folder: Location, manifest: CorpusManifest) -> None:
    text = json.dumps(manifest.model_dump(), indent=1) + "\n"
    storage.write(storage.join(folder, NAME), text.encode())


def damaged(folder: Location, shards: Iterable[Shard]) -> dict[str, str]:
    """Name -> what is wrong with it, of the shards that are not what the manifest says."""
    wrong, present = {}, storage.names(folder)
    for shard in shards:
        for name, expected in ((shard.name, shard.sha256), (shard.targets, shard.targets_sha256)):
            if expected is None:
                continue
            if name not in present:
                wrong[name] = "is missing"
                continue
            try:
                data = storage.read(storage.join(folder, name))
            except OSError as error:
                wrong[name] = f"cannot be read ({error})"
                continue
            if storage.sha256(data) != expected:
                wrong[name] = f"is not what was written ({len(data)} bytes, sha256 differs)"
    return wrong


def verify_corpus(folder: Location) -> tuple[CorpusManifest, Trajectories]:
    """The manifest and all rows of a corpus in which every row is there exactly once.

    Checked: each shard's sha256, its rows and their range, one seed, one
    teacher, orders that are permutations, no shard that the manifest does not
    know. Raises UserError with everything that is wrong.
    """
    manifest = read_manifest(folder)
    wrong = [f"{name} {what}" for name, what in damaged(folder, manifest.shards).items()]
    known = {shard.name for shard in manifest.shards}
    wrong += [
        f"{name} is not in the manifest"
        for name in sorted(storage.names(folder))
        if name.endswith(".parquet") and name not in known
    ]
    where = storage.shown(folder)
    if wrong:
        raise UserError(
            f"Corpus {where}: {'; '.join(wrong)}. Run the corpus stage again: it makes what is "
            "missing or damaged anew, with the same rows."
        )
    rows = decode(
        [
            (storage.join(folder, shard.name), storage.read(storage.join(folder, shard.name)))
            for shard in manifest.shards
        ]
    )
    expected = manifest.rows + manifest.held_out
    ids = rows.row_ids.tolist()
    if ids != list(range(expected)):
        raise UserError(
            f"Corpus {where} holds {len(ids)} rows where {expected} are due (row ids 0 to {expected - 1})."
        )
    if (rows.seed, rows.teacher) != (manifest.seed, manifest.fingerprint):
        raise UserError(
            f"Corpus {where} was sampled with seed {rows.seed} from teacher {rows.teacher}, and its "
            f"manifest says {manifest.seed} and {manifest.fingerprint}."
        )
    return manifest, rows


def split_corpus(folder: Location) -> tuple[Trajectories, Trajectories]:
    """(training, held-out) rows of a verified corpus."""
    manifest, rows = verify_corpus(folder)
    return rows.select(range(manifest.rows)), rows.select(range(manifest.rows, len(rows)))
