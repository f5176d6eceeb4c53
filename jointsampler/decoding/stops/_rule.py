"""The input and the signature of a stop rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Candidate:
    """The position that the method would reveal next, in B rows."""

    logits: Tensor | None  # [B, V] float32, untempered
    revealed: int  # reveals of this round so far, in the rows that are still in it
    estimate: Tensor | None = None  # [B] nats of KL that the update expects it to add


class StopRule(Protocol):
    """Decides, before every reveal of a round but the first, which rows stay in the round.

    ``limit`` bounds the reveals of a round, so that trip counts and buffer sizes
    need no synchronisation with the device. ``asks`` is when the loop calls the
    rule: "never" (every round has ``limit`` reveals), "after" the update that
    precedes the reveal, or "before" it, with an estimate, so that a refused reveal
    costs no update.
    """

    limit: int
    asks: Literal["never", "after", "before"]

    def begin(self, first: Candidate) -> Any:
        """The rule's memory [B, ...] of a round; its first reveal, ``first``, always happens."""

    def goes_on(self, memory: Any, candidate: Candidate) -> tuple[Tensor, Any]:
        """(the rows that stay in the round, [B] bool; the memory if they do)."""
