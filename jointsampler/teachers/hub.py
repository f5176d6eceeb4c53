"""Files of a hub repository: what is fetched, and the names, sizes and digests of its weights.

The hub states the sha256 of each weight file, and the local cache names its
files by it. So a repository's weights can be identified without fetching them,
and a description equals the loaded teacher.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Configuration and shard index: a few kilobytes each.
OUTLINE_FILES = [
    *("config.json", "generation_config.json", "tokenizer_config.json", "added_tokens.json"),
    *("*.safetensors.index.json", "*.jinja"),
]
# The same, and the tokenizer's vocabulary: no code and no weights.
DESCRIPTION_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
WEIGHT_FILES = ["*.safetensors"]


@dataclass(frozen=True)
class WeightFile:
    name: str
    size: int  # bytes
    digest: str  # the hub's: sha256 of a large file, git's object id of a small one


def fetch(what: str, hub_id: str, revision: str | None, files: list[str]) -> Path:
    """The local snapshot folder with the repository's ``files``; offline, the cached one.

    Raises UserError: no such repository or revision, hub not reachable and nothing cached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    except Exception as error:  # the hub client and its transports raise dozens of types
        raise UserError(
            f"No {what} {hub_id!r}: it is neither an embedded one nor a local folder, "
            f"and the hub did not give it ({_reason(error)})."
        ) from None


def published_weights(hub_id: str, snapshot: Path) -> tuple[WeightFile, ...]:
    """The weight files at the snapshot's commit, from the hub's metadata, or offline from the cache.

    Raises UserError: the hub is not reachable and the cache does not hold them all.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(hub_id, revision=snapshot.name, files_metadata=True)
    except Exception as error:  # as in fetch()
        return _complete(hub_id, snapshot, _reason(error))
    return tuple(
        WeightFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else file.blob_id)
        for file in sorted(info.siblings or [], key=lambda file: file.rfilename)
        if file.rfilename.endswith(".safetensors") and "/" not in file.rfilename
    )


def cached_weights(snapshot: Path) -> tuple[WeightFile, ...]:
    """The weight files in a snapshot folder of the local cache."""
    return tuple(
        WeightFile(path.name, path.stat().st_size, _digest(path))
        for path in sorted(snapshot.glob("*.safetensors"))
    )


def _digest(path: Path) -> str:
    # The cache keeps files under their digest and links to them, except where links do not exist.
    if path.is_symlink():
        return path.resolve().name
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _complete(hub_id: str, snapshot: Path, reason: str) -> tuple[WeightFile, ...]:
    """The cached weight files; UserError if some are missing."""
    cached = cached_weights(snapshot)
    needed: set[str] = set()
    for path in snapshot.glob("*.safetensors.index.json"):
        needed |= set(json.loads(path.read_text())["weight_map"].values())
    missing = needed - {file.name for file in cached}
    if missing or not cached:
        raise UserError(
            f"Cannot identify the weights of {hub_id!r}: the hub did not describe them ({reason}) "
            "and the local cache does not hold them all. Connect to the hub once, or use a local folder."
        )
    return cached


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
