"""Read and write whole files in a local folder or a bucket (s3://, gs://, ...), through pyarrow.

This is the one atomic writer: a file appears under its name only when it is
complete, so a reader never finds half of one. The contents are the callers'
business.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from .errors import UserError
from .uris import shown

Location = str | Path  # a path, or a URI with "://"
Stamp = tuple[int, int]  # of a file: bytes, nanoseconds at its last change
READERS = 16  # files that are read at the same time


def is_remote(location: Location) -> bool:
    return "://" in str(location)


def join(folder: Location, name: str) -> Location:
    """The location of ``name`` in ``folder``; a URI's query (an endpoint, a region) stays at its end."""
    if not is_remote(folder):
        return Path(folder) / name
    base, mark, query = str(folder).partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def _open(location: Location) -> tuple[fs.FileSystem, str]:
    if not is_remote(location):
        return fs.LocalFileSystem(), str(location)
    try:
        return fs.FileSystem.from_uri(str(location))
    except (ValueError, pa.ArrowException, OSError) as error:
        raise UserError(
            f"Cannot use storage {shown(location)}: {_reason(error, location)}."
        ) from None


def _reason(error: Exception, location: Location) -> str:
    """The error's first line; the location in it loses its secrets."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return reason.replace(str(location), shown(location)).rstrip(".")


def read(location: Location) -> bytes:
    """The whole file; OSError where it is not there or cannot be read."""
    system, path = _open(location)
    with system.open_input_stream(path) as stream:
        return stream.read()


def read_many(folder: Location, files: Sequence[str]) -> Iterator[bytes | OSError]:
    """The content of each of the ``files`` in order, or why it cannot be read; read in threads.

    No more than twice READERS files are in memory before they are taken.
    """
    system, base = _open(folder)

    def read_one(name: str) -> bytes | OSError:
        try:
            with system.open_input_stream(f"{base.rstrip('/')}/{name}") as stream:
                return stream.read()
        except OSError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[bytes | OSError]] = deque()
        for name in files:
            waiting.append(pool.submit(read_one, name))
            if len(waiting) == 2 * READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def write(location: Location, data: bytes) -> None:
    """Write the whole file or nothing.

    Raises UserError: no space, no permission, an unreachable bucket.
    """
    system, path = _open(location)
    try:
        if is_remote(location):  # an object appears when its upload is completed
            with system.open_output_stream(path) as stream:
                stream.write(data)
            return
        target = Path(path)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            with suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise UserError(
            f"Cannot write {shown(location)}: {_reason(error, location)}. What is complete stays; run again "
            "once there is room and permission."
        ) from None


def write_json(location: Location, data: Any) -> None:
    """Write ``data`` as indented JSON, as :func:`write` does."""
    write(location, (json.dumps(data, indent=1) + "\n").encode())


def delete(location: Location) -> None:
    """Delete the file, if it is there."""
    system, path = _open(location)
    with suppress(FileNotFoundError):
        system.delete_file(path)


def make_folder(folder: Location) -> None:
    """Create the folder where it is missing; UserError where that is impossible."""
    system, path = _open(folder)
    try:
        system.create_dir(path, recursive=True)
    except OSError as error:
        raise UserError(f"Cannot use storage {shown(folder)}: {_reason(error, folder)}.") from None


def names(folder: Location) -> set[str]:
    """Names of the complete files in ``folder``; empty where the folder is missing."""
    return set(stamps(folder))


def stamps(folder: Location) -> dict[str, Stamp]:
    """Name -> stamp of the complete files in ``folder``, from one listing."""
    system, path = _open(folder)
    try:
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except OSError as error:
        raise UserError(f"Cannot read storage {shown(folder)}: {_reason(error, folder)}.") from None
    return {
        info.base_name: (info.size, info.mtime_ns or 0)
        for info in found
        if info.type == fs.FileType.File and not info.base_name.startswith(".")
    }


def cache_folder() -> Path:
    """$JOINTSAMPLER_CACHE, or the user's cache folder."""
    named = os.environ.get("JOINTSAMPLER_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(named or f"{base}/jointsampler").expanduser()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
