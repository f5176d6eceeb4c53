"""What decides how rows are revealed, what a caller may prescribe of it, and what an observer sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError
from ..updates import Update
from .orders import OrderPolicy
from .sampling import Sampling
from .stops import StopRule
from .verify import Verification


@dataclass(frozen=True)
class Strategy:
    """Everything that decides how rows are revealed, except the rows."""

    update: Update
    rule: StopRule
    order: OrderPolicy
    sampling: Sampling
    seed: int
    verification: Verification | None = None
    step: StopRule | None = None  # ends the reveals that share an update; None: each has its own

    def __post_init__(self) -> None:
        if self.step is not None and self.verification is not None:
            raise UserError(
                "A draft that is verified has an update after every reveal: no step rule."
            )

    @property
    def least(self) -> int:
        """The fewest reveals of a round in a row with that many masks, known without the device."""
        fixed = not self.rule.asks and self.verification is None
        return self.rule.limit if fixed else 1


@dataclass(frozen=True)
class Script:
    """Recorded choices that replace the method's own; None leaves them to the method."""

    order: Tensor | None = None  # [B, L] int64, response position of each row's r-th reveal
    tokens: Tensor | None = None  # [B, L] int64, the token at each response position


@dataclass(frozen=True)
class Choice:
    """A reveal that is about to be made in B rows, for observers."""

    position: Tensor  # [B] int64, in the response
    logits: Tensor  # [B, V] float32 there, untempered
    active: Tensor  # [B] bool, rows in which it is made
    reveal: int  # 0: the round's first; without a step rule the round's reveals before it
    estimate: Tensor | None  # [B] nats of KL that the update expected it to add
