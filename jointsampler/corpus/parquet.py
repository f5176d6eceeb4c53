"""The file form of trajectories: one Parquet file per shard, about ten bytes a token.

Reading validates the rows and names the file of whatever it refuses. Which files
make up a corpus is in ``manifest.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .. import storage
from ..errors import UserError
from ..storage import Location
from ..uris import shown
from .trajectories import Trajectories

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("prompt", pa.list_(pa.int32()), nullable=False),  # ids, bos included
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),  # [L] response ids
        # [L] response position of the r-th reveal; -1 after the last reveal of an ended row
        pa.field("order", pa.list_(pa.int32()), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("teacher", pa.string(), nullable=False),  # fingerprint
    ]
)


def encode(rows: Trajectories) -> bytes:
    """The rows as one Parquet file; the same rows give the same bytes."""
    n = len(rows)
    table = pa.table(
        {
            "row_id": rows.row_ids.tolist(),
            "prompt": rows.prompts,
            "tokens": rows.tokens.tolist(),
            "order": rows.order.tolist(),
            "seed": [rows.seed] * n,
            "teacher": [rows.teacher] * n,
        },
        schema=SCHEMA,
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def write_parquet(rows: Trajectories, location: Location) -> None:
    """Write one file atomically: it appears under its name only when it is complete."""
    storage.write(location, encode(rows))


def read_parquet(locations: Sequence[Location]) -> Trajectories:
    """All rows of the files, sorted by row id; :func:`decode` says what is refused."""
    files = []
    for location in locations:
        try:
            files.append((location, storage.read(location)))
        except OSError as error:
            raise _unreadable(location, error) from None
    return decode(files)


def decode(files: Sequence[tuple[Location, bytes]]) -> Trajectories:
    """All rows of the (location, content) pairs, sorted by row id.

    Raises UserError naming the file: unreadable or truncated, another schema,
    an order that repeats a position or goes on after a -1, several lengths, seeds
    or teachers, a row twice.
    """
    if not files:
        raise UserError("No corpus files to read: run the corpus stage first.")
    data = pa.concat_tables([_table(*file) for file in files]).sort_by("row_id").to_pydict()
    where = f"{shown(files[0][0]).rpartition('/')[0]} ({len(files)} files)"
    length = len(data["tokens"][0])
    for row_id, tokens, order in zip(data["row_id"], data["tokens"], data["order"], strict=True):
        if len(tokens) != length or not _is_order(order, length):
            raise UserError(
                f"Corpus {where}: row {row_id} does not have {length} tokens and an order that names "
                "each of their positions at most once: the corpus mixes settings or is damaged."
            )
    for name in ("seed", "teacher"):
        if len(set(data[name])) != 1:
            raise UserError(
                f"Corpus {where} mixes several values of {name!r}: keep one per folder."
            )
    if len(set(data["row_id"])) != len(data["row_id"]):
        raise UserError(
            f"Corpus {where} holds a row id twice: delete the folder and sample it anew."
        )
    return Trajectories(
        torch.tensor(data["row_id"]),
        data["prompt"],
        torch.tensor(data["tokens"]),
        torch.tensor(data["order"]),
        data["seed"][0],
        data["teacher"][0],
    )


def _is_order(order: list[int], length: int) -> bool:
    """Whether ``order`` is distinct positions of the response, then -1s, ``length`` in all."""
    revealed = [position for position in order if position != -1]
    return (
        len(order) == length
        and order[: len(revealed)] == revealed
        and len(set(revealed)) == len(revealed)
        and all(0 <= position < length for position in revealed)
    )


def _table(location: Location, data: bytes) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(location, error) from None
    if table.schema.names != SCHEMA.names:
        raise UserError(
            f"Corpus file {shown(location)} has columns {table.schema.names}, not "
            f"{SCHEMA.names}: it was not written by the corpus stage."
        )
    return table.cast(SCHEMA)


def _unreadable(location: Location, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(
        f"Corpus file {shown(location)} is unreadable or truncated ({reason}): run the corpus "
        "stage again, which makes the file anew."
    )
