"""Sample the rows of a corpus and write them as shards.

A row depends on (seed, row id) and the settings alone, so it does not matter
which process samples it or in which batch. Which shards are missing, and who
makes them, is the corpus stage's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import storage
from ..decoding.generate import Prompt, generate
from ..errors import UserError
from ..memory import BatchSize
from ..storage import Location
from ..teachers.protocol import Teacher
from .manifest import Shard, describe
from .parquet import encode
from .trajectories import Trajectories


@dataclass(frozen=True)
class SampleSettings:
    """How the rows of a corpus are decoded; the evaluation draws its samples in the same way."""

    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "entropy"
    prompts: tuple[Prompt, ...] | None = None  # one per row id


class RowSampler:
    """Samples rows and shards with one teacher, ``batch_size`` rows at a time."""

    def __init__(self, teacher: Teacher, settings: SampleSettings, batch_size: int | BatchSize):
        self.teacher, self.settings, self.batch_size = teacher, settings, batch_size
        self.tokens = 0  # revealed in the last shard

    def rows(self, ids: Sequence[int]) -> tuple[Trajectories, float]:
        """The sequential trajectories of the rows ``ids``, and the seconds of their decoding."""
        settings = self.settings
        prompts = settings.prompts
        generation = generate(
            self.teacher,
            prompts=None if prompts is None else [prompts[i] for i in ids],
            method="sequential",
            num_samples=len(ids) if prompts is None else 1,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            order=settings.order,
            seed=settings.seed,
            batch_size=self.batch_size,
            row_ids=ids,
            stop_at_end=bool(self.teacher.end_ids),
        )
        rows = Trajectories.from_generation(generation, settings.seed, self.teacher)
        return rows, generation.seconds

    def shard(self, folder: Location, name: str, ids: Sequence[int]) -> tuple[Shard, float]:
        """Sample the rows ``ids``, write them to ``folder``/``name``; its manifest entry and seconds.

        Raises UserError naming the rows for whatever goes wrong.
        """
        try:
            rows, seconds = self.rows(ids)
            self.tokens = int(rows.reveals.sum())
            data = encode(rows)
            storage.write(storage.join(folder, name), data)
        except Exception as error:
            raise UserError(
                f"Corpus rows {ids[0]} to {ids[-1]} ({name}) could not be made: {error}"
            ) from error
        return describe(name, data, ids), seconds
