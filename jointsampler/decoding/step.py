"""A step: the reveals of a round that one update follows.

Without a rule every reveal is a step. With one, a row goes on revealing from the states
that it has while the rule lets it, and then waits until each row waits or has left the
round: one update serves all. The rules are those that end rounds (``stops/``), one level
below: ``EntropyBound`` bounds what drawing a step's tokens independently adds to the KL,
``Threshold`` is the parallel decoding of Fast-dLLM (arXiv 2505.22618) on cached states.
When a row's update is due depends on that row alone, so a sample does not depend on the
batch. Asking whether any row goes on waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .stops import Candidate, StopRule


class Step:
    """The steps of one round in B rows, one after the other; ``rows`` [B] int64 is their index."""

    def __init__(self, rule: StopRule, rows: Tensor):
        self.made = torch.zeros_like(rows)  # [B] reveals of the round
        self._rule = rule
        self._last = self.made  # [B] each row's last reveal, in the response
        self.updated()

    def updated(self) -> None:
        """An update has followed the step: another begins."""
        self._places: list[Tensor] = []  # ``_last`` after every reveal of the step
        self._memory: Any = None
        self._going: Tensor | None = None  # [B] bool, rows that the rule has not stopped

    @property
    def full(self) -> bool:
        """Whether the step has as many reveals as its rule allows."""
        return len(self._places) >= self._rule.limit

    def ready(self, in_round: Tensor, logits: Tensor) -> Tensor | None:
        """The rows [B] bool of ``in_round`` that reveal next without an update; None if there are none.

        logits: [B, V] at the position that each row would reveal.
        """
        candidate = Candidate(logits, len(self._places))
        stays, self._memory = self._rule.goes_on(self._memory, candidate)
        self._going = stays if self._going is None else self._going & stays
        ready = in_round & self._going
        return ready if bool(ready.any()) else None

    def revealed(self, position: Tensor, logits: Tensor, active: Tensor) -> Tensor:
        """Rows ``active`` [B] reveal at ``position`` [B], from logits [B, V]; [B] each row's last reveal."""
        if not self._places:
            self._memory = self._rule.begin(Candidate(logits, 0))
        self._last = torch.where(active, position, self._last)
        self._places.append(self._last)
        self.made = self.made + active
        return self._last

    def others(self, start: int) -> Tensor | None:
        """[B, P] int64: canvas positions of the step's reveals but the last; None where each row made one.

        start: positions of the canvas before the response. A row with fewer reveals
        names its last again.
        """
        if len(self._places) < 2:
            return None
        return start + torch.stack(self._places[:-1], dim=1)


def of_ready(ready: Tensor | None, new: Any, old: Any) -> Any:
    """A rule's memory [B, ...]: ``new`` in the rows that were asked, ``old`` in those that wait."""
    if ready is None or new is None:
        return new
    return torch.where(ready.view(-1, *[1] * (new.ndim - 1)), new, old)
