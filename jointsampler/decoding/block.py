"""The decoding loop: one teacher pass opens a block, reveals follow until it stops.

All methods share it, and with it order, suppression, random streams and
accounting. Rows leave a block on their own; there is no host branch on tensor
values. What a user calls is in ``generate.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import rng
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from .canvas import Canvas
from .methods import Method
from .orders import OrderPolicy, OrderView
from .sampling import Sampling, draw, probabilities

# Logits held at once while scoring: 64 Mi floats, 256 MiB.
_SCORE_FLOATS = 1 << 26


def order_scores(
    teacher: Teacher, hidden: Tensor, canvas: Canvas, order: OrderPolicy, seed: int, most: int
) -> Tensor:
    """Scores [B, L] of the response positions, inf where nothing is masked.

    The LM head runs only at masked positions: each row's are gathered to the
    front, and ``most`` is a bound on their number that the host knows anyway.
    hidden: [B, P + L, H].
    """
    positions = canvas.masked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    batch, count = positions.shape
    rows = canvas.rows[:, None].expand(batch, count).reshape(-1)
    flat = positions.reshape(-1)
    if order.needs_logits:
        gathered = canvas.response(hidden).gather(
            1, positions[..., None].expand(-1, -1, hidden.shape[-1])
        )
        gathered = gathered.reshape(batch * count, -1)
        step = max(1, _SCORE_FLOATS // teacher.vocab_size)
        values = torch.cat(
            [
                order.score(OrderView(teacher.logits(h), p, r, seed))
                for h, p, r in zip(
                    gathered.split(step), flat.split(step), rows.split(step), strict=True
                )
            ]
        )
    else:
        values = order.score(OrderView(None, flat, rows, seed))
    scores = torch.full(canvas.masked.shape, torch.inf, dtype=values.dtype, device=values.device)
    scores = scores.scatter(1, positions, values.view(batch, count))
    return scores.masked_fill(~canvas.masked, torch.inf)


@torch.inference_mode()
def decode(
    teacher: Teacher,
    sampler: JointSampler | None,
    canvas: Canvas,
    method: Method,
    k: int,
    order: OrderPolicy,
    sampling: Sampling,
    seed: int,
    on_reveal: Callable[[Canvas], None] | None = None,
) -> None:
    """Reveal every masked position of ``canvas``, in place."""
    stop = method.stop(k)
    each = torch.arange(len(canvas.rows), device=canvas.ids.device)
    left = canvas.length  # a bound on any row's masked positions
    while left > 0 and bool(canvas.unfinished().any()):  # once per block; a teacher pass dwarfs it
        in_block = canvas.unfinished()
        hidden = teacher.hidden(canvas.ids, canvas.attention_mask)
        canvas.teacher_passes += in_block
        scores = None
        for reveal in range(min(stop.limit, left)):
            if reveal > 0:
                in_block = in_block & canvas.unfinished()
                in_block = in_block & stop.goes_on(in_block)
                if method.uses_sampler:
                    hidden = sampler(teacher.embed(canvas.ids), hidden, canvas.attention_mask)
                    canvas.sampler_passes += in_block
                    scores = None
            if scores is None:
                most = left - min(reveal, stop.least)
                scores = order_scores(teacher, hidden, canvas, order, seed, most)
            position = scores.argmin(dim=1)  # [B]
            logits = teacher.logits(hidden[each, canvas.start + position])  # [B, V]
            uniform = rng.uniform(seed, canvas.rows, position, rng.TOKEN)
            token = draw(probabilities(logits, sampling), uniform)
            canvas.reveal(position, token, in_block)
            scores = scores.masked_fill(~canvas.masked, torch.inf)
            if on_reveal is not None:
                on_reveal(canvas)
        left -= stop.least
