"""The keys and values of one full pass, stored for later passes over a few columns.

Data only. ``columns.py`` fills them and computes with them; ``updates/`` decides
which columns a later pass recomputes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

# What a full pass stores: nothing; the keys and values of every attention call; or the queries of
# the lower layers too, of a quarter or of two thirds of all.
Keep = Literal["nothing", "keys", "queries", "deep queries"]
_QUERIED = {"queries": 1 / 4, "deep queries": 2 / 3}

Watch = Callable[[int, Tensor, Tensor, Tensor | None], None]

_MAP_FLOATS = 1 << 22  # of attention maps held at a time: 16 MiB in float32


def queried(keep: Keep, layers: int) -> int:
    """How many of ``layers`` layers, from the lowest, have their queries stored."""
    return math.ceil(_QUERIED.get(keep, 0.0) * layers)


def _maps(query: Tensor, key: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
    """Attention logits [B, some heads, S, S] float32 of one call, as many heads at a time as fit.

    query: [B, heads, S, D], scaled; key: [B, kv_heads, S, D]; mask: as in ``KeyValues.masks``.
    """
    batch, heads, size, _ = query.shape
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    step = max(1, _MAP_FLOATS // (batch * size * size))
    for part in torch.arange(heads).split(step):
        begin, end = int(part[0]), int(part[-1]) + 1
        logits = query[:, begin:end] @ key[:, begin:end].transpose(2, 3)
        if mask is not None:
            rows = mask if mask.shape[1] == 1 else mask[:, begin:end]
            boolean = rows.dtype == torch.bool
            lowest = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~rows, lowest) if boolean else logits + rows
        yield logits.float()


@dataclass(eq=False)
class KeyValues:
    """What each attention call of a full pass over [B, S] read, in call order.

    keys, values: [B, kv_heads, S, D] per call, after rotary embedding. masks:
    [B or 1, heads or 1, S, S] per call, bool (True where a query attends) or
    additive, or None where every query attends to every key. Calls that share
    one mask share one tensor. Of the first ``queried`` calls also queries [B, heads, S, D]
    and norms [B, heads, S] float32, the logarithm of each query's softmax denominator, so
    that :meth:`attention_to` can say what a column receives.

    ``watch``, if given, is called in every rerun with the attention that each call is about to
    compute: (number of the call, scaled queries [B, heads, C, D], keys [B, kv_heads, S, D] with
    the new ones, mask rows [B, heads or 1, C, S] or None).

    The state belongs to a round: two rounds hold two objects, and the model holds none.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    queried: int = 0
    queries: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    watch: Watch | None = None

    def __len__(self) -> int:
        """The number of attention calls that are stored."""
        return len(self.keys)

    def clear(self) -> None:
        """Drop everything; the object can store another full pass."""
        for stored in (self.keys, self.values, self.masks, self.queries, self.norms):
            stored.clear()

    def keep_query(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> None:
        """Store the scaled queries [B, heads, S, D] of a call with their norms.

        key: [B, kv_heads, S, D]; mask: as in ``masks``.
        """
        query = (query * scale).contiguous()
        norms = [logits.logsumexp(-1) for logits in _maps(query, key, mask)]
        self.queries.append(query)
        self.norms.append(torch.cat(norms, dim=1))

    def rollout(self, attention_mask: Tensor | None) -> Tensor:
        """[B, S] float32: how much of each column reaches the states after the ``queried`` calls.

        Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928) summed over the
        columns that it reaches; a row's values sum to its number of columns. Queries are
        those of the full pass, keys those stored now; attention_mask: [B, S] bool, False
        on padding, which has 0. Some heads at a time: no map of a whole layer is held.
        """
        batch, _, size, _ = self.queries[0].shape
        reached = self.norms[0].new_ones(batch, size)
        if attention_mask is not None:
            reached = reached * attention_mask
        calls = list(zip(self.queries, self.keys, self.masks, strict=False))
        for query, key, mask in reversed(calls):
            received = torch.zeros_like(reached)
            for logits in _maps(query, key, mask):
                received += (reached[:, None, None] @ logits.softmax(-1)).sum((1, 2))
            reached = (reached + received / query.shape[1]) / 2
        return reached

    def attention_to(self, columns: Tensor) -> Tensor:
        """[B, S] float32 in [0, 1]: the attention that each query pays to column [B], whose key is new.

        The mean over heads and the ``queried`` calls. Queries are those of the full
        pass; the softmax is over the keys of the full pass and this new one. Without
        the new key in the denominator, a token that stands out where a mask was would
        receive more than 1, in some heads 20. Queries of padding have a value too.
        """
        each = torch.arange(len(columns), device=columns.device)
        total = torch.zeros_like(self.norms[0][:, 0])
        # Queries are stored of the first calls alone.
        calls = zip(self.queries, self.norms, self.keys, self.masks, strict=False)
        for query, norm, key, mask in calls:
            at = key[each, :, columns]  # [B, kv_heads, D]
            at = at.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            logits = (query @ at[..., None])[..., 0].float()  # [B, heads, S]
            if mask is not None:  # a sliding window hides the column from queries far away
                seen = mask.expand(len(columns), -1, -1, -1)[each, :, :, columns]
                boolean = seen.dtype == torch.bool
                logits = logits.masked_fill(~seen, -torch.inf) if boolean else logits + seen
            total += (logits - norm).sigmoid().mean(1)
        return total / len(self.queries)

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
            self.queried,
            [query[rows] for query in self.queries],
            [norm[rows] for norm in self.norms],
        )
