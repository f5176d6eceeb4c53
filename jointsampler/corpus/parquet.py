"""The file form of trajectories: one Parquet file per shard, about ten bytes a token.

Reading validates the rows and names the file of whatever it refuses. Which files
make up a corpus is in ``manifest.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
    """The rows as one Parquet file; the same rows give the same bytes.

    Pages carry checksums, so that a reader without the sha256 finds a flipped bit.
    """
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
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_parquet(folder: Location, names: Sequence[str]) -> Trajectories:
    """All rows of the files, sorted by row id; :func:`decode` says what is refused."""
    files = []
    for name, data in zip(names, storage.read_many(folder, names), strict=True):
        location = storage.join(folder, name)
        if isinstance(data, OSError):
            raise _unreadable(location, data)
        files.append((location, data))
    return decode(files)


def decode(files: Sequence[tuple[Location, bytes]]) -> Trajectories:
    """All rows of the (location, content) pairs, sorted by row id.

    Raises UserError naming the file: unreadable or truncated, another schema,
    an order that repeats a position or goes on after a -1, several lengths, seeds
    or teachers, a row twice.
    """
    if not files:
        raise UserError("No corpus files to read: run the corpus stage first.")
    table = pa.concat_tables([_table(*file) for file in files]).sort_by("row_id")
    where = f"{shown(files[0][0]).rpartition('/')[0]} ({len(files)} files)"
    row_ids = table["row_id"].to_numpy()
    length = len(table["tokens"][0])
    tokens, order = (_rectangle(table[name], length) for name in ("tokens", "order"))
    wrong = ~(_are_orders(order) & (tokens >= 0).all(1))
    if wrong.any():
        raise UserError(
            f"Corpus {where}: row {row_ids[wrong][0]} does not have {length} tokens and an order that names "
            "each of their positions at most once: the corpus mixes settings or is damaged."
        )
    for name in ("seed", "teacher"):
        if len(table[name].unique()) != 1:
            raise UserError(
                f"Corpus {where} mixes several values of {name!r}: keep one per folder."
            )
    if (row_ids[1:] == row_ids[:-1]).any():
        raise UserError(
            f"Corpus {where} holds a row id twice: delete the folder and sample it anew."
        )
    return Trajectories(
        torch.from_numpy(row_ids.copy()),
        table["prompt"].to_pylist(),
        torch.from_numpy(tokens),
        torch.from_numpy(order),
        table["seed"][0].as_py(),
        table["teacher"][0].as_py(),
    )


def _rectangle(lists: pa.ChunkedArray, length: int) -> np.ndarray:
    """[n, length] int64; a row of another length is -2s, which no row may hold."""
    found = np.full((len(lists), length), -2, dtype=np.int64)
    begin = 0
    for chunk in lists.chunks:
        fits = pc.equal(pc.list_value_length(chunk), length)
        held = chunk.filter(fits).flatten().to_numpy()
        here = found[begin : begin + len(chunk)]
        here[fits.to_numpy(zero_copy_only=False)] = held.reshape(-1, length)
        begin += len(chunk)
    return found


def _are_orders(order: np.ndarray) -> np.ndarray:
    """[n] bool: whether each row of ``order`` [n, L] is distinct positions, then -1s."""
    length = order.shape[1]
    revealed = order != -1
    together = (revealed[:, 1:] <= revealed[:, :-1]).all(1)
    inside = ((order >= -1) & (order < length)).all(1)
    # Each -1 becomes a number of its own, so that the sorted row repeats none but positions.
    numbers = np.sort(np.where(revealed, order, length + np.arange(length)), axis=1)
    return together & inside & (numbers[:, 1:] > numbers[:, :-1]).all(1)


def _table(location: Location, data: bytes) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
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
