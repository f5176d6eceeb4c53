"""Where a teacher's files are, and a short name for their content.

A checkpoint is a folder with ``config.json``, safetensors and tokenizer files:
an embedded one, a local one, or a hub repository in the local cache. A hub
repository can be described without its weights and its vocabulary. ``families/``
turns a checkpoint into a teacher.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from ..errors import UserError
from . import hub

EMBEDDED = {"tiny": "tiny"}  # name -> folder beside this file
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a readable ``config.json``."""

    name: str
    folder: Path
    config: dict[str, Any]
    # A hub repository's weight files, which need not be in the folder. None: those in the folder.
    weights: tuple[hub.WeightFile, ...] | None = None
    is_outline: bool = False  # of a hub repository: the vocabulary need not be in the folder

    def fetch_vocabulary(self) -> None:
        """Fetch the tokenizer's files, which an outline lacks; UserError where the hub is away."""
        if self.is_outline:
            hub.fetch("tokenizer", self.name, self.folder.name, hub.DESCRIPTION_FILES)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify config and weights; cheap at any size.

        sha256 over config.json, the shard index and each weight file's name and
        size, then for a hub repository the hub's digest of the file, else its
        first and last 64 KiB (the first hold the safetensors header: every
        tensor's name, type and shape).
        """
        digest = hashlib.sha256(json.dumps(self.config).encode())
        for path in sorted(self.folder.glob("*.safetensors.index.json")):
            digest.update(path.read_bytes())
        if self.weights is not None:
            for file in self.weights:
                digest.update(f"{file.name} {file.size} {file.digest}\n".encode())
            return digest.hexdigest()[:16]
        for path in sorted(self.folder.glob("*.safetensors")):
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(_SAMPLE_BYTES)
                file.seek(max(0, size - _SAMPLE_BYTES))
                tail = file.read(_SAMPLE_BYTES)
            digest.update(f"{path.name} {size}".encode() + head + tail)
        return digest.hexdigest()[:16]

    @property
    def has_weights(self) -> bool:
        """Whether the checkpoint has safetensors files, here or on the hub."""
        if self.weights is not None:
            return bool(self.weights)
        return any(self.folder.glob("*.safetensors"))

    def read_json(self, name: str) -> dict[str, Any]:
        """Another JSON file of the folder; empty if there is none."""
        path = self.folder / name
        return _read_json(path) if path.is_file() else {}

    def require(self, key: str) -> Any:
        """``config[key]``; UserError naming the file and the key if it is absent."""
        if self.config.get(key) is None:
            raise UserError(
                f"{self.folder / 'config.json'} has no {key!r}: the file is incomplete."
            )
        return self.config[key]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path}: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(content).__name__}.")
    return content


def find_checkpoint(
    name_or_path: str, revision: str | None = None, weights: bool = True
) -> Checkpoint:
    """The checkpoint of an embedded name, a local folder or a hub id.

    With ``weights=False`` neither weights nor vocabulary of a hub id are fetched.
    Raises UserError: none of the three, hub not reachable, unreadable config.
    """
    if name_or_path in EMBEDDED:
        folder = Path(str(resources.files(__package__))) / EMBEDDED[name_or_path]
    else:
        folder = Path(name_or_path).expanduser()
    if (folder / "config.json").is_file():
        return Checkpoint(name_or_path, folder, _read_json(folder / "config.json"))
    if folder.exists() or not hub.HUB_ID.fullmatch(name_or_path):
        raise UserError(
            f"No teacher {name_or_path!r}: it is neither an embedded one "
            f"({', '.join(EMBEDDED)}), nor a folder with a config.json, nor a hub id."
        )
    files = [*hub.DESCRIPTION_FILES, *hub.WEIGHT_FILES] if weights else hub.OUTLINE_FILES
    folder = hub.fetch("teacher", name_or_path, revision, files)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"The hub repository {name_or_path!r} has no config.json: it is not a teacher."
        )
    config = _read_json(folder / "config.json")
    if weights:
        return Checkpoint(name_or_path, folder, config, hub.cached_weights(folder))
    published = hub.published_weights(name_or_path, folder)
    return Checkpoint(name_or_path, folder, config, published, is_outline=True)


def find_tokenizer(source: str) -> Checkpoint:
    """The tokenizer files in a local folder, with or without a config.json, or of a hub id."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not hub.HUB_ID.fullmatch(source):
            raise UserError(f"teacher.tokenizer={source!r} is neither a folder nor a hub id.")
        folder = hub.fetch("tokenizer", source, None, hub.DESCRIPTION_FILES)
    path = folder / "config.json"
    return Checkpoint(source, folder, _read_json(path) if path.is_file() else {})


def auto_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The checkpoint's config.json in its stock class; UserError if no stock class has its type."""
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"{checkpoint.folder / 'config.json'} is of no stock transformers class: {reason}"
        ) from None
