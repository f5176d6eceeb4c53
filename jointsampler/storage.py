"""Files at a place: a local folder, or a bucket (s3://, gs://, ...), through pyarrow.

A file appears under its name only when it is complete, so whoever finds it may
trust that no writer was interrupted in it. What the files mean is left to
``trajectories.py`` and ``corpus_manifest.py``.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from .errors import UserError

Location = str | Path  # a path, or a URI with "://"


def is_remote(location: Location) -> bool:
    return "://" in str(location)


def join(folder: Location, name: str) -> Location:
    """The place of ``name`` in ``folder``; a URI's query (an endpoint, a region) stays at its end."""
    if not is_remote(folder):
        return Path(folder) / name
    base, mark, query = str(folder).partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def shown(location: Location) -> str:
    """The location as a message names it: without a URI's query, which may hold secrets."""
    return str(location).partition("?")[0] if is_remote(location) else str(location)


def _open(location: Location) -> tuple[fs.FileSystem, str]:
    if not is_remote(location):
        return fs.LocalFileSystem(), str(location)
    try:
        return fs.FileSystem.from_uri(str(location))
    except (ValueError, pa.ArrowException, OSError) as error:
        raise UserError(f"Cannot use storage {shown(location)}: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error).splitlines()[0]).rstrip(".")


def read(location: Location) -> bytes:
    """The whole file; OSError where it is not there or cannot be read."""
    system, path = _open(location)
    with system.open_input_stream(path) as stream:
        return stream.read()


def write(location: Location, data: bytes) -> None:
    """The whole file or nothing.

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
            f"Cannot write {shown(location)}: {_reason(error)}. What is complete stays; run again "
            "once there is room and permission."
        ) from None


def make_folder(folder: Location) -> None:
    """UserError where it can neither be found nor made."""
    system, path = _open(folder)
    try:
        system.create_dir(path, recursive=True)
    except OSError as error:
        raise UserError(f"Cannot use storage {shown(folder)}: {_reason(error)}.") from None


def names(folder: Location) -> set[str]:
    """Names of the files in ``folder``, without those still being written; empty if it is not there."""
    system, path = _open(folder)
    try:
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    except OSError as error:
        raise UserError(f"Cannot read storage {shown(folder)}: {_reason(error)}.") from None
    return {
        info.base_name
        for info in found
        if info.type == fs.FileType.File and not info.base_name.startswith(".")
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
