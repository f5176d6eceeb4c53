"""Results of an evaluation's items as JSON files, one per item, so that an evaluation can go on.

A file holds the item beside its result, and arrays as the base64 of their bytes, so
that a result read back equals the one written. Which items an evaluation has, and
where their files are, is the evaluation stage's business.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import storage
from ..storage import Location
from .items import Item, KLs, Samples
from .judges import Scores
from .kl import BlockKL, Walk
from .stats import Interval

RECORDS = {record.__name__: record for record in (Samples, Scores, BlockKL, Walk, Interval)}


def name_of(index: int) -> str:
    return f"item-{index:05d}.json"


def save(folder: Location, index: int, item: Item, result: Samples | KLs) -> None:
    """Write the result of ``item``, whose number is ``index``; UserError where that is impossible."""
    data = {"item": describe(item), "result": encoded(result)}
    storage.write(storage.join(folder, name_of(index)), json.dumps(data).encode())


def load(folder: Location, index: int, item: Item) -> Samples | KLs | None:
    """The saved result of ``item``; None if there is none, or the file is damaged or another item's."""
    try:
        data = json.loads(storage.read(storage.join(folder, name_of(index))))
        return decoded(data["result"]) if data["item"] == describe(item) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_all(folder: Location, items: Sequence[Item]) -> dict[int, Samples | KLs]:
    """Every saved result, by the number of its item."""
    present = storage.names(folder)
    found = {}
    for index, item in enumerate(items):
        result = load(folder, index, item) if name_of(index) in present else None
        if result is not None:
            found[index] = result
    return found


def describe(item: Item) -> dict[str, Any]:
    return {"kind": type(item).__name__, **dataclasses.asdict(item)}


def encoded(value: Any) -> Any:
    """``value`` as JSON has it: arrays, records of ``RECORDS`` and dictionaries are marked by a key."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    kind = type(value).__name__
    if RECORDS.get(kind) is type(value):
        return {"record": kind, "fields": {k: encoded(v) for k, v in vars(value).items()}}
    if dataclasses.is_dataclass(value):
        raise TypeError(f"{kind} is not among the records that can be saved")
    if isinstance(value, dict):  # JSON's keys are text; those of KLs are tuples
        return {"pairs": [[encoded(key), encoded(entry)] for key, entry in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encoded(entry) for entry in value]}
    if isinstance(value, list):
        return [encoded(entry) for entry in value]
    return value


def decoded(value: Any) -> Any:
    """What :func:`encoded` was given; KeyError, TypeError or ValueError for anything else."""
    if isinstance(value, list):
        return [decoded(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        flat = np.frombuffer(base64.b64decode(value["array"]), np.dtype(value["dtype"]))
        return flat.reshape(value["shape"]).copy()
    if "record" in value:
        fields = {name: decoded(entry) for name, entry in value["fields"].items()}
        return RECORDS[value["record"]](**fields)
    if "tuple" in value:
        return tuple(decoded(entry) for entry in value["tuple"])
    return {decoded(key): decoded(entry) for key, entry in value["pairs"]}
