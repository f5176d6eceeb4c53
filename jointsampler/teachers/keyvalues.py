"""The keys and values of one full pass, stored for later passes over a few columns.

Data only. ``columns.py`` fills them and computes with them; ``updates/`` decides
which columns a later pass recomputes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class KeyValues:
    """What each attention call of a full pass over [B, S] read, in call order.

    keys, values: [B, kv_heads, S, D] per call, after rotary embedding. masks:
    [B or 1, heads or 1, S, S] per call, bool (True where a query attends) or
    additive, or None where every query attends to every key. Calls that share
    one mask share one tensor.

    The state belongs to a round: two rounds hold two objects, and the model holds none.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of attention calls that are stored."""
        return len(self.keys)

    def clear(self) -> None:
        """Drop everything; the object can store another full pass."""
        for stored in (self.keys, self.values, self.masks):
            stored.clear()

    def select(self, rows: Tensor) -> KeyValues:
        """A copy of some rows (int64 [R], repeats allowed, or bool [B])."""
        batch = self.keys[0].shape[0] if self.keys else 0
        copies: dict[int, Tensor] = {}  # one copy of each shared mask

        def pick(mask: Tensor | None) -> Tensor | None:
            if mask is None:
                return None
            if id(mask) not in copies:
                copies[id(mask)] = mask.expand(batch, -1, -1, -1)[rows]
            return copies[id(mask)]

        return KeyValues(
            [key[rows] for key in self.keys],
            [value[rows] for value in self.values],
            [pick(mask) for mask in self.masks],
        )

    def put(self, rows: Tensor, other: KeyValues) -> None:
        """Overwrite some rows (int64 [R] or bool [B]) with the R rows of ``other``."""
        merged: dict[tuple[int, int], Tensor | None] = {}  # one tensor for calls that share a mask
        pairs = []
        for call in range(len(self)):
            self.keys[call][rows] = other.keys[call]
            self.values[call][rows] = other.values[call]
            pairs.append((id(self.masks[call]), id(other.masks[call])))
            if pairs[call] not in merged:
                merged[pairs[call]] = self._put_mask(call, rows, other.masks[call])
        self.masks = [merged[pair] for pair in pairs]

    def _put_mask(self, call: int, rows: Tensor, theirs: Tensor | None) -> Tensor | None:
        """The mask of one call with ``theirs`` [R, ...] in some rows, as a new tensor."""
        own = self.masks[call]
        if own is None and theirs is None:
            return None
        given = theirs if own is None else own
        neutral = 1 if given.dtype == torch.bool else 0  # every query attends to every key
        key = self.keys[call]
        if own is None:
            length = key.shape[2]
            merged = given.new_full((len(key), given.shape[1], length, length), neutral)
        else:
            merged = own.expand(len(key), -1, -1, -1).clone()
        merged[rows] = neutral if theirs is None else theirs
        return merged
