"""Where a teacher's files are, and a short name of what is in them.

A checkpoint is a folder with ``config.json``, safetensors and tokenizer files:
an embedded one, a local one, or a hub repository fetched into the local cache.
What a family makes of it is left to ``families/``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from ..errors import UserError

EMBEDDED = {"tiny": "tiny"}  # name -> folder beside this file
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Weights, configuration, tokenizer, chat template: no code, no second copy in another format.
_TOKENIZER_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_HUB_FILES = [*_TOKENIZER_FILES, "*.safetensors"]
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class Checkpoint:
    """A folder known to hold a readable ``config.json``."""

    name: str
    folder: Path
    config: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """A short name of config and weights, cheap at any size.

        sha256 over config.json, the shard index, and for each weight file its
        size and its first and last 64 KiB (the first hold the safetensors
        header: every name, type and shape).
        """
        digest = hashlib.sha256(json.dumps(self.config).encode())
        for path in sorted(self.folder.glob("*.safetensors.index.json")):
            digest.update(path.read_bytes())
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
        return any(self.folder.glob("*.safetensors"))

    def read_json(self, name: str) -> dict[str, Any]:
        """A further JSON file of the folder; empty if there is none."""
        path = self.folder / name
        return _read_json(path) if path.is_file() else {}

    def require(self, key: str) -> Any:
        """``config[key]``; UserError naming the file and the key otherwise."""
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


def find_checkpoint(name_or_path: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint of an embedded name, a local folder or a hub id.

    Raises UserError: neither of the three, hub not reachable, unreadable config.
    """
    if name_or_path in EMBEDDED:
        folder = Path(str(resources.files(__package__))) / EMBEDDED[name_or_path]
    else:
        folder = Path(name_or_path).expanduser()
    if not (folder / "config.json").is_file():
        if folder.exists() or not _HUB_ID.fullmatch(name_or_path):
            raise UserError(
                f"No teacher {name_or_path!r}: it is neither an embedded one "
                f"({', '.join(EMBEDDED)}), nor a folder with a config.json, nor a hub id."
            )
        folder = _fetch("teacher", name_or_path, revision, _HUB_FILES)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"The hub repository {name_or_path!r} has no config.json: it is no teacher."
            )
    return Checkpoint(name_or_path, folder, _read_json(folder / "config.json"))


def find_tokenizer(source: str) -> Checkpoint:
    """The tokenizer files in a local folder, with or without a config.json, or of a hub id."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(source):
            raise UserError(f"teacher.tokenizer={source!r} is neither a folder nor a hub id.")
        folder = _fetch("tokenizer", source, None, _TOKENIZER_FILES)
    path = folder / "config.json"
    return Checkpoint(source, folder, _read_json(path) if path.is_file() else {})


def auto_config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The checkpoint's config.json in its own stock class; UserError where it has none."""
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"{checkpoint.folder / 'config.json'} is of no stock transformers class: {reason}"
        ) from None


def _fetch(what: str, hub_id: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    except Exception as error:  # the hub client and its transports raise dozens of types
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise UserError(
            f"No {what} {hub_id!r}: it is neither an embedded one ({', '.join(EMBEDDED)}) nor a "
            f"local folder, and the hub did not give it ({reason})"
        ) from None
