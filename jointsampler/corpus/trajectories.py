"""Teacher trajectories: the rows of a corpus, and the states on their paths.

A row holds the prompt, the response tokens and the order of the reveals. Every
state x_t of the trajectory follows from these, so no state is stored. The file
form is in ``parquet.py``, sampling in ``sample.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoding.canvas import left_pad
from ..decoding.generate import Generation
from ..errors import UserError
from ..teachers.protocol import Teacher


@dataclass(frozen=True)
class Trajectories:
    """N rows with responses of L positions.

    A row that reached its end early has fewer than L reveals: ``order`` is -1
    after the last one, and ``tokens`` holds the end token at the positions that
    were never revealed.
    """

    row_ids: Tensor  # [N] int64
    prompts: list[list[int]]
    tokens: Tensor  # [N, L] int64
    order: Tensor  # [N, L] int64, response position of each reveal; -1 after the last
    seed: int
    teacher: str  # fingerprint

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def width(self) -> int:
        """Tokens of the longest row, prompt included."""
        return self.length + max(map(len, self.prompts))

    @property
    def reveals(self) -> Tensor:
        """[N] int64, the number of recorded reveals of each row."""
        return (self.order >= 0).sum(1)

    @staticmethod
    def joined(parts: Sequence[Trajectories]) -> Trajectories:
        """All rows of parts that have one length, seed and teacher, sorted by row id."""
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
    def from_generation(cls, generation: Generation, seed: int, teacher: Teacher) -> Trajectories:
        """The trajectories of a sequential ``Generation``.

        Raises UserError where a round revealed more than one token, or where a
        teacher pass revealed none.
        """
        order, rounds = generation.order, generation.round
        repeated = (rounds[:, 1:] == rounds[:, :-1]) & (order[:, 1:] >= 0)
        reveals = (order >= 0).sum(1)
        if bool(repeated.any()) or not torch.equal(generation.teacher_passes, reveals):
            raise UserError(
                "Trajectories come from sequential sampling (one token per teacher pass), but this "
                "generation revealed several tokens in a round: sample with method='sequential'."
            )
        return cls(
            generation.rows,
            generation.prompts,
            generation.responses,
            order,
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
    """B trajectories on the teacher's device; ``state(t)`` gives any state on their paths."""

    ids: Tensor  # [B, P + L] int64, prompt padded on the left, then all response tokens
    attention_mask: Tensor | None  # [B, P + L] bool, None without padding
    order: Tensor  # [B, L] int64, response position of each reveal; -1 after the last
    rank: Tensor  # [B, L] int64, index of the reveal of each position; L if never revealed
    reveals: Tensor  # [B] int64, number of recorded reveals
    start: int  # P
    mask_id: int

    @classmethod
    def of(cls, rows: Trajectories, teacher: Teacher) -> Paths:
        prompt, real = left_pad(rows.prompts, teacher.pad_id)
        full = torch.cat([real, torch.ones_like(rows.tokens, dtype=torch.bool)], dim=1)
        length = rows.length
        # One column more, into which the -1s of ended rows scatter; it is cut off.
        slots = torch.arange(length).expand_as(rows.order)
        target = torch.where(rows.order < 0, length, rows.order)
        rank = torch.full((len(rows), length + 1), length).scatter(1, target, slots)[:, :length]
        device = teacher.device
        return cls(
            torch.cat([prompt, rows.tokens], dim=1).to(device),
            None if bool(full.all()) else full.to(device),
            rows.order.to(device),
            rank.to(device),
            rows.reveals.to(device),
            prompt.shape[1],
            teacher.mask_id,
        )

    def select(self, index: Tensor) -> Paths:
        mask = None if self.attention_mask is None else self.attention_mask[index]
        return Paths(
            self.ids[index],
            mask,
            self.order[index],
            self.rank[index],
            self.reveals[index],
            self.start,
            self.mask_id,
        )

    def repeat(self, count: int) -> Paths:
        """The same rows ``count`` times over."""
        return self.select(torch.arange(len(self.ids), device=self.ids.device).repeat(count))

    def state(self, t: Tensor) -> Tensor:
        """x_t [B, P + L] int64: the ids after reveals 0 to t - 1, t [B] int64.

        Positions that were never revealed stay masked at every t up to L.
        """
        masked = self.rank >= t[:, None]
        response = torch.where(masked, self.mask_id, self.ids[:, self.start :])
        return torch.cat([self.ids[:, : self.start], response], dim=1)
