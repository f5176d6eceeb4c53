"""Rows of a source of prompts: a local file or a data set of the hub.

A plan needs the first rows alone, which are read without the rest of the source.
``prompts.py`` makes prompts of rows.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..errors import UserError

FORMATS = (".jsonl", ".json", ".parquet", ".txt")
LINE = "prompt"  # the one column of a text file
LOCAL_HEAD = 1 << 20  # bytes of a local file that a plan reads
HUB_HEAD = 1 << 15  # bytes of a hub file that a plan fetches
Row = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """The first rows of a source; of a large Parquet file on the hub the columns alone."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def is_file(source: str) -> bool:
    """Whether the name is that of a file rather than of a hub data set."""
    return Path(source).suffix in FORMATS


def identity(source: str, revision: str | None) -> str:
    """What tells two sources apart: a file's sha256, a data set's name and revision."""
    if not is_file(source):
        return f"{source}@{revision}"
    digest = hashlib.sha256()
    with _existing(source).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def first_rows(source: str, revision: str | None) -> Head | None:
    """The first rows, cheaply; None where they cannot be had so: the hub is away, another format.

    Raises UserError: no such file or data set, a file that is not of its format.
    """
    if not is_file(source):
        return _hub_head(source, revision)
    path = _existing(source)
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                batch = next(file.iter_batches(batch_size=64), None)
                return Head(
                    tuple(file.schema_arrow.names), tuple(batch.to_pylist() if batch else ())
                )
        with path.open("rb") as file:
            data = file.read(LOCAL_HEAD)
        return _head_of(path.suffix, data, whole=len(data) < LOCAL_HEAD)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error) from None


def all_rows(source: str, revision: str | None) -> Iterator[Row]:
    """Every row in order; a hub data set's split "train". UserError where it cannot be read."""
    try:
        if not is_file(source):
            import datasets  # takes seconds to import

            yield from datasets.load_dataset(source, revision=revision, split="train")
            return
        path = _existing(source)
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
            return
        yield from _parsed(path.suffix, path.read_bytes(), whole=True)
    except UserError:
        raise
    except Exception as error:  # datasets raises dozens of types
        raise _unreadable(source, error) from None


def _existing(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"corpus.prompts={source!r}: there is no such file.")
    return path


def _unreadable(source: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return UserError(
        f"Cannot read prompts from corpus.prompts={source!r} ({reason}): give a .jsonl or .parquet file "
        "or a hub data set, whose columns corpus.prompt_template names, a .txt file with one prompt a "
        "line, or 'tasks'."
    )


def _head_of(suffix: str, data: bytes, whole: bool) -> Head | None:
    rows = tuple(_parsed(suffix, data, whole))
    return Head(tuple(dict.fromkeys(key for row in rows for key in row)), rows) if rows else None


def _parsed(suffix: str, data: bytes, whole: bool) -> Iterator[Row]:
    """The rows of a text or JSON file (an object a line, or one array); of a head all but the last."""
    # Some editors write a byte order mark; it belongs to no prompt.
    text = data.decode("utf-8-sig", "strict" if whole else "ignore")
    if suffix != ".txt" and text.lstrip().startswith("["):
        found, unit = enumerate(_array(text, whole), start=1), "entry"
    else:
        found, unit = _lines(suffix, text, whole), "line"
    for number, row in found:
        if not isinstance(row, dict):
            raise ValueError(f"{unit} {number} is no JSON object")
        yield row


def _lines(suffix: str, text: str, whole: bool) -> Iterator[tuple[int, Any]]:
    """(number, what it holds) of each line that is not blank."""
    lines = text.split("\n")
    for number, line in enumerate(lines if whole else lines[:-1], start=1):
        if not line.strip():
            continue
        held = {LINE: line.removesuffix("\r")} if suffix == ".txt" else json.loads(line)
        yield number, held


def _array(text: str, whole: bool) -> Iterator[Any]:
    """The entries of one JSON array."""
    if whole:
        yield from json.loads(text)
        return
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    while True:
        while text[at : at + 1] in (" ", "\n", "\r", "\t", ","):
            at += 1
        try:
            row, at = decoder.raw_decode(text, at)
        except ValueError:  # the head ends within this row
            return
        yield row


def _hub_head(name: str, revision: str | None) -> Head | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(name, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _unreadable(name, error) from None
    except Exception:  # the hub is away: the run reads what the local cache holds
        return None
    files = sorted(file.rfilename for file in info.siblings or [])
    files = [file for file in files if is_file(file) and file != "dataset_infos.json"]
    files.sort(key=lambda file: "train" not in file)
    if not files:
        return None
    suffix = Path(files[0]).suffix
    try:
        if suffix == ".parquet":
            tail = _part(name, info.sha, files[0], f"bytes=-{2 * HUB_HEAD}")
            return Head(tuple(pq.read_schema(io.BytesIO(tail)).names), ())
        data = _part(name, info.sha, files[0], f"bytes=0-{HUB_HEAD - 1}")
        return _head_of(suffix, data, whole=len(data) < HUB_HEAD)
    except Exception:  # a footer above the limit, a transport's error
        return None


def _part(name: str, commit: str | None, file: str, byte_range: str) -> bytes:
    """A few bytes of a data set's file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    url = hf_hub_url(name, file, repo_type="dataset", revision=commit)
    headers = build_hf_headers() | {"Range": byte_range}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        if response.status_code != 206:  # not the whole file in place of a part
            raise OSError(f"status {response.status_code}")
        return response.read()
