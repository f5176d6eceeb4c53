"""What a benchmark covers: updates and methods, over batches and lengths.

Measurement and prediction read the same cases, so that their tables have the same
rows. Plain data: no model, no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..columns import get_policy
from ..decoding.generate import check_k
from ..errors import UserError
from ..updates.at_columns import checked_columns

# Depths of the joint sampler: the paper's form, and a hybrid.
_DEPTHS = (0, 3)
SHORTEST = 4  # tokens of a response that can be timed


@dataclass(frozen=True)
class UpdateCase:
    """A refresh (``depth`` None) or a joint sampler of ``depth``."""

    depth: int | None = None
    columns: int | None = None  # None: the paper's form, all columns
    policy: str = "attention"

    @property
    def name(self) -> str:
        if self.depth is None:
            return f"refresh, {self.columns} columns"
        where = "all columns" if self.columns is None else f"{self.columns} columns"
        return f"joint of depth {self.depth}, {where}"


@dataclass(frozen=True)
class MethodCase:
    """A whole response with k tokens per full pass; ``reference``: by the plain recipe."""

    method: str
    k: int
    update: UpdateCase | None = None
    reference: bool = False

    @property
    def name(self) -> str:
        base = self.method if self.update is None else self.update.name
        return f"reference recipe, {base}" if self.reference else base


@dataclass(frozen=True)
class Grid:
    """Batches, response lengths, k and columns; every combination is one part of the table.

    Raises UserError: an empty list, a number below 1, k or columns out of range,
    an unknown policy.
    """

    batches: Sequence[int] = (1, 8)
    lengths: Sequence[int] = (64,)
    ks: Sequence[int] = (1, 4, 8)
    columns: Sequence[int] = (4, 8, 16)
    policy: str = "attention"
    repeats: int = 3

    def __post_init__(self) -> None:
        lists = {
            "batch": self.batches, "length": self.lengths, "k": self.ks, "columns": self.columns
        }  # fmt: skip
        for name, values in lists.items():
            if not values:
                raise UserError(f"--{name} is empty: give at least one number.")
        for count in self.columns:
            checked_columns(count)
        if min(self.batches) < 1:
            raise UserError(f"A batch has at least 1 row, not {min(self.batches)}.")
        if min(self.lengths) < SHORTEST:
            raise UserError(
                f"A timed response has at least {SHORTEST} tokens, not {min(self.lengths)}."
            )
        for k in self.ks:
            check_k(k, min(self.lengths))
        if self.repeats < 1:
            raise UserError(f"repeats must be at least 1, not {self.repeats}.")
        get_policy(self.policy)

    def check_fits(self, name: str, max_length: int) -> None:
        """UserError unless a prompt of one token and the longest response fit teacher ``name``."""
        if max(self.lengths) + 1 > max_length:
            raise UserError(
                f"A response of {max(self.lengths)} tokens behind one token does not fit the {max_length} "
                f"positions of {name!r}: choose a shorter --length."
            )

    @property
    def middle(self) -> int:
        """The columns of the methods: the middle one of ``columns``, the larger of two."""
        return sorted(self.columns)[len(self.columns) // 2]

    def updates(self, layers: int) -> list[UpdateCase]:
        """Updates that a teacher of ``layers`` layers can have: refresh, and samplers of two depths."""
        found = [UpdateCase(None, columns, self.policy) for columns in self.columns]
        return found + [self._joint(depth) for depth in self._depths(layers)]

    def methods(self, layers: int) -> list[MethodCase]:
        """Sequential first, then for each k > 1 the others, and the plain recipe at every k."""
        found = [MethodCase("sequential", 1)]
        for k in self.ks:
            if k > 1:
                found.append(MethodCase("marginal", k))
                found.append(MethodCase("refresh", k, UpdateCase(None, self.middle, self.policy)))
                found += [MethodCase("joint", k, self._joint(d)) for d in self._depths(layers)]
                found.append(MethodCase("joint", k, self._joint(0), reference=True))
            else:
                found.append(MethodCase("sequential", 1, reference=True))
        return found

    def _joint(self, depth: int) -> UpdateCase:
        return UpdateCase(depth, self.middle if depth else None, self.policy)

    @staticmethod
    def _depths(layers: int) -> list[int]:
        """Depths without repetition; a shallow teacher bounds them."""
        return list(dict.fromkeys(min(depth, layers - 1) for depth in _DEPTHS))
