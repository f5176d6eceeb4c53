"""Scoring: an order policy over the masked positions, with the LM head only where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..teachers.protocol import Teacher
from .orders import OrderPolicy, OrderView

# Logits held at once while scoring: 64 Mi floats, 256 MiB.
_SCORE_FLOATS = 1 << 26


def row_chunks(shape: Sequence[int]) -> list[slice]:
    """Slices of the rows of [B, C, V] logits, each of a bounded size."""
    batch, count, vocabulary = shape
    step = max(1, _SCORE_FLOATS // (count * vocabulary))
    return [slice(begin, begin + step) for begin in range(0, batch, step)]


def over_masked(
    judge: Callable[..., Tensor],
    states: Sequence[Tensor],
    masked: Tensor,
    most: int,
    teacher: Teacher,
) -> Tensor:
    """``judge`` at each row's masked positions, a bounded number of logits at a time.

    states: tensors [B, L, H] that judge gets as [N, H] each, giving [N, C];
    masked: [B, L] bool, at most ``most`` a row. Returns [B, L, C], 0 elsewhere.
    """
    positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    batch, count = positions.shape
    gathered = [
        state.gather(1, positions[..., None].expand(-1, -1, state.shape[-1])).flatten(0, 1)
        for state in states
    ]
    step = max(1, _SCORE_FLOATS // teacher.vocab_size)
    pieces = zip(*(state.split(step) for state in gathered), strict=True)
    values = torch.cat([judge(*piece) for piece in pieces])
    out = values.new_zeros(*masked.shape, values.shape[-1])
    index = positions[..., None].expand(-1, -1, values.shape[-1])
    return out.scatter(1, index, values.view(batch, count, -1)) * masked[..., None]


def order_scores(
    teacher: Teacher,
    hidden: Tensor,
    masked: Tensor,
    rows: Tensor,
    order: OrderPolicy,
    seed: int,
    most: int,
) -> Tensor:
    """Scores [B, L] of response positions, inf where ``masked`` [B, L] is False.

    hidden: [B, L, H], the response's; rows: [B] row ids. Each row's masked
    positions are gathered to the front; ``most`` is a bound on their number that
    the host knows anyway.
    """
    positions = masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    batch, count = positions.shape
    flat_rows = rows[:, None].expand(batch, count).reshape(-1)
    flat = positions.reshape(-1)
    if order.needs_logits:
        gathered = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        gathered = gathered.reshape(batch * count, -1)
        step = max(1, _SCORE_FLOATS // teacher.vocab_size)
        pieces = zip(gathered.split(step), flat.split(step), flat_rows.split(step), strict=True)
        values = torch.cat(
            [order.score(OrderView(teacher.logits(h), p, r, seed)) for h, p, r in pieces]
        )
    else:
        values = order.score(OrderView(None, flat, flat_rows, seed))
    scores = torch.full(masked.shape, torch.inf, dtype=values.dtype, device=values.device)
    scores = scores.scatter(1, positions, values.view(batch, count))
    return scores.masked_fill(~masked, torch.inf)
