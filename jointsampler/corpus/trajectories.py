"""Teacher trajectories: the corpus row, its Parquet form, and the states on its path.

A row is (row_id, prompt, tokens, order, seed, teacher): about ten bytes a token.
Any state x_t of the trajectory follows from it, so nothing else is stored. Who
samples the rows and where the files go is the corpus stage's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .. import storage
from ..decoding.canvas import left_pad
from ..decoding.generate import Generation
from ..errors import UserError
from ..storage import Location
from ..teachers.protocol import Teacher

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("prompt", pa.list_(pa.int32()), nullable=False),  # ids, bos included
        pa.field("tokens", pa.list_(pa.int32()), nullable=False),  # [L] response ids
        pa.field("order", pa.list_(pa.int32()), nullable=False),  # [L] position of the r-th reveal
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("teacher", pa.string(), nullable=False),  # fingerprint
    ]
)


@dataclass(frozen=True)
class Trajectories:
    """N rows with responses of one length L."""

    row_ids: Tensor  # [N] int64
    prompts: list[list[int]]
    tokens: Tensor  # [N, L] int64
    order: Tensor  # [N, L] int64
    seed: int
    teacher: str  # fingerprint

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @staticmethod
    def joined(parts: Sequence[Trajectories]) -> Trajectories:
        """All rows of parts with responses of one length, by row id."""
        first = parts[0]
        ids = torch.cat([part.row_ids for part in parts])
        return Trajectories(
            ids,
            [prompt for part in parts for prompt in part.prompts],
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.order for part in parts]),
            first.seed,
            first.teacher,
        ).select(ids.argsort())

    def select(self, index: Sequence[int] | Tensor) -> Trajectories:
        index = torch.as_tensor(index, dtype=torch.long)
        return Trajectories(
            self.row_ids[index],
            [self.prompts[i] for i in index.tolist()],
            self.tokens[index],
            self.order[index],
            self.seed,
            self.teacher,
        )

    @classmethod
    def from_generation(
        cls, generation: Generation, seed: int, teacher: Teacher, on_policy: bool = False
    ) -> Trajectories:
        """The trajectories of a sequential ``Generation``.

        ``on_policy``: of any other, as states to learn from, which are no sample
        of the joint. Raises UserError where, without it, a teacher pass revealed
        more than one token.
        """
        if not on_policy and not torch.equal(
            generation.teacher_passes,
            generation.order.new_full((len(generation.rows),), generation.order.shape[1]),
        ):
            raise UserError(
                "Trajectories come from sequential sampling (one token per teacher pass); "
                "this generation revealed several."
            )
        return cls(
            generation.rows,
            generation.prompts,
            generation.responses,
            generation.order,
            seed,
            teacher.fingerprint,
        )

    def check_teacher(self, teacher: Teacher) -> None:
        """UserError unless ``teacher`` made these trajectories."""
        if self.teacher != teacher.fingerprint:
            raise UserError(
                f"These trajectories were sampled from another teacher ({self.teacher}) than "
                f"{teacher.name!r} ({teacher.fingerprint}): sample a corpus from this one."
            )


@dataclass(frozen=True)
class Paths:
    """Trajectories on a device, ready to be cut at any step."""

    ids: Tensor  # [B, P + L] int64, all revealed
    attention_mask: Tensor | None  # [B, P + L] bool, None without padding
    order: Tensor  # [B, L] int64
    rank: Tensor  # [B, L] int64, when each response position is revealed
    start: int  # P
    mask_id: int

    @classmethod
    def of(cls, rows: Trajectories, teacher: Teacher) -> Paths:
        prompt, real = left_pad(rows.prompts, teacher.pad_id)
        full = torch.cat([real, torch.ones_like(rows.tokens, dtype=torch.bool)], dim=1)
        rank = torch.empty_like(rows.order).scatter(
            1, rows.order, torch.arange(rows.length).expand_as(rows.order)
        )
        device = teacher.device
        return cls(
            torch.cat([prompt, rows.tokens], dim=1).to(device),
            None if bool(full.all()) else full.to(device),
            rows.order.to(device),
            rank.to(device),
            prompt.shape[1],
            teacher.mask_id,
        )

    def select(self, index: Tensor) -> Paths:
        mask = None if self.attention_mask is None else self.attention_mask[index]
        return Paths(
            self.ids[index], mask, self.order[index], self.rank[index], self.start, self.mask_id
        )

    def repeat(self, count: int) -> Paths:
        """The same rows ``count`` times over."""
        return self.select(torch.arange(len(self.ids), device=self.ids.device).repeat(count))

    def state(self, t: Tensor) -> Tensor:
        """x_t: [B, P + L] ids with the reveals 0..t-1 made; t is [B] int64."""
        masked = self.rank >= t[:, None]
        response = torch.where(masked, self.mask_id, self.ids[:, self.start :])
        return torch.cat([self.ids[:, : self.start], response], dim=1)


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
    """One file, atomically: it appears under its name only when complete."""
    storage.write(location, encode(rows))


def read_parquet(locations: Sequence[Location]) -> Trajectories:
    """All rows of the files, sorted by row id; see :func:`decode` for what is refused."""
    files = []
    for location in locations:
        try:
            files.append((location, storage.read(location)))
        except OSError as error:
            raise _unreadable(location, error) from None
    return decode(files)


def _unreadable(location: Location, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(
        f"Corpus file {storage.shown(location)} is unreadable or truncated ({reason}): run the corpus "
        "stage again, which makes it anew."
    )


def decode(files: Sequence[tuple[Location, bytes]]) -> Trajectories:
    """All rows of the (location, content) pairs, sorted by row id.

    Raises UserError naming the file: unreadable or truncated, another schema,
    an order that is no permutation, several lengths, seeds or teachers, a row twice.
    """
    if not files:
        raise UserError("No corpus files to read: run the corpus stage first.")
    tables = []
    for location, data in files:
        try:
            table = pq.read_table(pa.BufferReader(data))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(location, error) from None
        if table.schema.names != SCHEMA.names:
            raise UserError(
                f"Corpus file {storage.shown(location)} has columns {table.schema.names}, not "
                f"{SCHEMA.names}: it was not written by the corpus stage."
            )
        tables.append(table.cast(SCHEMA))
    data = pa.concat_tables(tables).sort_by("row_id").to_pydict()
    where = f"{storage.shown(files[0][0]).rpartition('/')[0]} ({len(files)} files)"
    tokens, order = data["tokens"], data["order"]
    length = len(tokens[0])
    expected = list(range(length))
    for row_id, row_tokens, row_order in zip(data["row_id"], tokens, order, strict=True):
        if len(row_tokens) != length or sorted(row_order) != expected:
            raise UserError(
                f"Corpus {where}: row {row_id} does not have {length} tokens and a permutation "
                "of their positions as its order: the corpus mixes settings or is damaged."
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
        torch.tensor(tokens),
        torch.tensor(order),
        data["seed"][0],
        data["teacher"][0],
    )
