"""Small facts about this machine that later processes use again: one JSON file each in the cache folder.

A fact is found by a key of everything that it depends on. A file that is missing,
damaged or cannot be written costs the time of measuring again, and no error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .storage import cache_folder, make_folder, sha256, write_json

log = logging.getLogger(__name__)
Key = Mapping[str, Any]  # JSON-able


def recall(kind: str, key: Key) -> Any:
    """What was kept under ``key``; None where nothing readable was."""
    try:
        return json.loads(_place(kind, key).read_bytes())
    except (OSError, ValueError):
        return None


def keep(kind: str, key: Key, fact: Any) -> None:
    """Keep ``fact`` (JSON-able) of a ``kind`` under ``key``; where that is impossible, warn."""
    place = _place(kind, key)
    try:
        make_folder(place.parent)
        write_json(place, fact)
    except UserError as error:
        log.warning("the %s is not kept: %s", kind, error)


def _place(kind: str, key: Key) -> Path:
    return cache_folder() / kind / f"{sha256(json.dumps(key, sort_keys=True).encode())[:24]}.json"
