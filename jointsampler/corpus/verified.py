"""Which shards of a corpus have been verified, so that no stage verifies one twice.

``verified.json`` beside the manifest belongs to one manifest, by its digest. It holds
the size and the time of the last change of each shard, as they were before the shard
was read. A shard that changed since is verified again; a folder that was copied is
verified as a whole. A marker that is damaged counts as none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from .. import storage
from ..errors import UserError
from ..storage import Location, Stamp
from .manifest import CorpusManifest, check_manifest, check_shards

NAME = "verified.json"
log = logging.getLogger(__name__)


def marked(folder: Location, manifest: CorpusManifest) -> dict[str, Stamp]:
    """The stamps of the shards that were verified against this manifest."""
    try:
        marker = json.loads(storage.read(storage.join(folder, NAME)))
        if marker["manifest"] != manifest.digest:
            return {}
        return {name: (size, changed) for name, (size, changed) in marker["shards"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def verify_once(
    folder: Location, manifest: CorpusManifest, known: Mapping[str, Stamp] | None = None
) -> dict[str, str]:
    """Name -> damage of the shards; reads only those that changed since they were verified.

    ``known``: stamps of further shards that this process has verified. What is whole is
    marked, so that later stages read none of it. Raises UserError where the manifest
    itself does not hold every row once.
    """
    check_manifest(folder, manifest)
    stamps, before = storage.stamps(folder), marked(folder, manifest)
    trusted = before | dict(known or {})
    changed = [s for s in manifest.shards if trusted.get(s.name) != stamps.get(s.name, ())]
    damage = check_shards(folder, manifest, changed)
    whole = {s.name: stamps[s.name] for s in manifest.shards if s.name in stamps.keys() - damage}
    if whole != before:
        _mark(folder, manifest, whole)
    return damage


def _mark(folder: Location, manifest: CorpusManifest, whole: Mapping[str, Stamp]) -> None:
    marker = {"manifest": manifest.digest, "shards": whole}
    try:
        storage.write_json(storage.join(folder, NAME), marker)
    except UserError as error:  # a corpus that may only be read
        log.warning("the verification is not marked: %s", error)
