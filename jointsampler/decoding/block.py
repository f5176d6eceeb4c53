"""The decoding loop: one teacher pass opens a block, reveals follow until it stops.

All methods share it, and with it order, suppression, random streams and
accounting. Rows leave a block on their own; inside a block there is no host
branch on tensor values. What a user calls is in ``generate.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..sampler.estimator import Foresight
from ..sampler.model import JointSampler
from ..teachers.protocol import Teacher
from ..window import Window
from .cache import CacheKind, cached, visible
from .canvas import Canvas
from .methods import Method
from .orders import OrderPolicy
from .readout import Head, Readout, opened
from .sampling import Sampling, draw, probabilities
from .stops import Candidate, StopRule
from .verify import Draft, verify


def opening_pass(
    teacher: Teacher, canvas: Canvas, known: Tensor | None, has: Tensor | None
) -> Tensor:
    """Hidden states [B, P + L, H] that open the next block.

    ``known`` are those that a verification left behind, for the rows where
    ``has`` [B]; the teacher is asked for the other unfinished rows alone.
    """
    ask = canvas.unfinished() if has is None else canvas.unfinished() & ~has
    canvas.teacher_passes += ask
    canvas.teacher_rows += ask
    if known is None:
        return teacher.hidden(canvas.ids, canvas.attention_mask)
    index = ask.nonzero()[:, 0]
    if len(index):
        mask = None if canvas.attention_mask is None else canvas.attention_mask[index]
        known[index] = teacher.hidden(canvas.ids[index], mask)
    return known


@torch.inference_mode()
def decode(
    teacher: Teacher,
    sampler: JointSampler | None,
    canvas: Canvas,
    method: Method,
    stop: StopRule,
    order: OrderPolicy,
    sampling: Sampling,
    seed: int,
    on_reveal: Callable[[Canvas], None] | None = None,
    block_length: int | None = None,
    cache: CacheKind = "none",
    stop_at_end: bool = False,
) -> None:
    """Reveal every masked position of ``canvas``, in place.

    With ``block_length`` the response is finished stretch by stretch, left to
    right (semi-autoregressive, LLaDA's block decoding); ``cache`` then says what
    is kept of the finished ones (``cache.py``). With ``stop_at_end`` a row ends
    where nothing before its first end token is masked; its tail counts nowhere.
    """
    length = block_length or canvas.length
    ends = torch.tensor(teacher.end_ids, device=canvas.ids.device)
    watcher = stop.watcher() if hasattr(stop, "watcher") else None
    for begin in range(0, canvas.length, length):
        canvas.open(begin, begin + length)
        if not bool(canvas.unfinished().any()):
            continue  # every row has ended
        source = cached(teacher, canvas, cache, begin, begin + length)
        _decode_open(
            source, sampler, canvas, method, stop, order, sampling, seed, on_reveal, length,
            ends if stop_at_end else None, watcher,
        )  # fmt: skip
    if stop_at_end:
        canvas.fill_tails(teacher.pad_id if teacher.eos_id is None else teacher.eos_id)


def _decode_open(
    teacher: Teacher,
    sampler: JointSampler | None,
    canvas: Canvas,
    method: Method,
    stop: StopRule,
    order: OrderPolicy,
    sampling: Sampling,
    seed: int,
    on_reveal: Callable[[Canvas], None] | None,
    left: int,
    ends: Tensor | None,
    watcher: Any,
) -> None:
    """Reveal what is open on the canvas, at most ``left`` positions a row."""
    # A block of a verified method may keep a single reveal.
    least = 1 if method.verification else stop.least
    each = torch.arange(len(canvas.rows), device=canvas.ids.device)
    estimates = getattr(stop, "needs_estimate", False)
    opening = has_opening = last = None
    narrow = sampler.config.window if method.uses_sampler else 0
    head = Head(teacher, canvas, order, seed)
    while left > 0 and bool(canvas.unfinished().any()):  # once per block; a teacher pass dwarfs it
        in_block = canvas.unfinished()
        draft = Draft.empty(canvas, in_block) if method.verification else None
        opening = opening_pass(teacher, canvas, opening, has_opening)
        mask = visible(teacher, canvas)
        eligible = None
        if watcher is not None:
            # Positions outside the open block are watched too: they move while they wait.
            eligible = watcher.eligible(
                teacher, canvas.response(opening), canvas.masked, canvas.length
            )
        hidden, scores, memory, window, inside = opening, None, None, None, None
        readout: Readout = head
        for reveal in range(min(stop.limit, left, narrow or left)):
            if reveal > 0:
                in_block = in_block & canvas.unfinished()
                # Rules that leave a block early are asked whether any row is still in it: the answer
                # costs less than the passes it saves. A fixed k is never asked.
                if estimates:  # asked before the pass: a refused reveal costs none
                    seen = foresee(teacher, readout, canvas, hidden, opening, scores, last, reveal)
                    stays, memory = stop.goes_on(
                        memory, Candidate(seen.logits, reveal, sampler.estimator(seen))
                    )
                    in_block = in_block & stays
                if stop.least < stop.limit and not bool(in_block.any()):
                    break
                if method.uses_sampler:
                    hidden = sampler(teacher.embed(canvas.ids), hidden, mask, window)
                    canvas.sampler_passes += in_block
                    scores = None
            open_now = canvas.candidates if inside is None else canvas.candidates & inside
            if scores is None:
                most = left - min(reveal, least)
                bound = most if inside is None else min(most, narrow)
                scores = readout.scores(hidden, open_now, bound)
                if narrow and inside is None:  # the block opens: the rest of it stays in here
                    window = Window.first(scores, narrow, canvas.start)
                    inside = window.inside(canvas.start, canvas.length)
                    open_now = canvas.candidates & inside
                    scores = scores.masked_fill(~inside, torch.inf)
                    readout = opened(head, sampler, opening, window)
            # Eligible positions first, each group in the policy's order.
            ranked = scores if eligible is None else prefer(eligible & open_now, scores)
            position = ranked.argmin(dim=1)  # [B]
            logits = readout.logits(hidden, position)  # [B, V]
            candidate = Candidate(
                logits, reveal, None, None if eligible is None else eligible[each, position]
            )
            if reveal == 0:
                memory = stop.begin(candidate)
            elif not estimates:
                stays, memory = stop.goes_on(memory, candidate)
                in_block = in_block & stays
            law = probabilities(logits, sampling)
            token = draw(law, rng.uniform(seed, canvas.rows, position, rng.TOKEN))
            canvas.reveal(position, token, in_block)
            scores, last = scores.masked_fill(~canvas.candidates, torch.inf), position
            if draft is not None:
                draft.add(position, token, law, in_block)
            if on_reveal is not None:
                on_reveal(canvas)
        if draft is not None:
            opening, has_opening = verify(
                teacher, canvas, draft, method.verification, order, sampling, seed, left
            )
            if on_reveal is not None:
                on_reveal(canvas)
        else:
            opening = None
        if ends is not None:
            canvas.end_rows(ends)
        left -= least


def foresee(
    teacher: Teacher,
    readout: Readout,
    canvas: Canvas,
    states: Tensor,
    opening: Tensor,
    scores: Tensor,
    last: Tensor,
    depth: int,
) -> Foresight:
    """What the estimator may know before a sampler pass: the next position as it looks now.

    states, opening: [B, P + L, H or more]; scores: [B, L], inf where revealed;
    last: [B], the position revealed last.
    """
    each = torch.arange(len(canvas.rows), device=canvas.ids.device)
    position = scores.argmin(dim=1)
    column = canvas.start + position
    return Foresight(
        states[each, column],
        opening[each, column],
        readout.logits(states, position),
        teacher.embed(canvas.ids[each, canvas.start + last][:, None])[:, 0],
        position - last,
        depth,
    )


def prefer(eligible: Tensor, scores: Tensor) -> Tensor:
    """[B, L] ranks as float: the eligible in the order of their scores, then the others in theirs."""
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return torch.where(eligible, rank, rank + scores.shape[1]).float()
