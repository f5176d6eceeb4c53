"""One copy of a bucket's shards per node: the first process that needs them fetches them for all.

The copies lie in the cache folder below the manifest's digest, so another corpus
never meets them. Nothing removes them; they may be deleted at any time. A folder that
is not in a bucket is read where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from .. import storage
from ..errors import UserError
from ..storage import Location
from ..uris import shown

log = logging.getLogger(__name__)


def nearby(folder: Location, digest: str, shards: Mapping[str, tuple[int, str]]) -> Location:
    """A folder that holds ``shards`` (name -> bytes, sha256) of the corpus in ``folder``.

    Where there is no room for copies, or a shard cannot be fetched, it is ``folder``
    itself. Raises UserError for a shard that is not what was written.
    """
    if not storage.is_remote(folder):
        return folder
    here = storage.cache_folder() / "corpus" / digest[:24]
    try:
        storage.make_folder(here)
        with FileLock(here / ".lock"):
            damaged = _fetch(folder, here, shards)
    except (OSError, UserError) as error:
        log.warning("the shards of %s are not kept on this node: %s", shown(folder), error)
        return folder
    if damaged is not None:
        raise UserError(
            f"Corpus {shown(folder)}: {damaged} is not what was written (sha256 differs). Run the corpus "
            "stage again, which makes it anew."
        )
    return here


def _fetch(folder: Location, here: Path, shards: Mapping[str, tuple[int, str]]) -> str | None:
    """Copy the shards that ``here`` lacks; the name of one that is not what was written, if any is."""
    present = storage.stamps(here)
    missing = [name for name, (size, _) in shards.items() if present.get(name, (-1,))[0] != size]
    for name, data in zip(missing, storage.read_many(folder, missing), strict=True):
        if isinstance(data, OSError):
            raise data
        if storage.sha256(data) != shards[name][1]:
            return name
        storage.write(here / name, data)
    return None
