"""Online targets: the teacher's conditionals at the states where the loss looks.

One teacher pass per state, all states of a batch together. Where in the
sequence the loss looks is decided here too: at the positions revealed next,
which is where decoding will read the sampler, and at random other masked ones,
so that no position is left to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..teachers.protocol import Teacher
from ..trajectories import Paths

STREAM = 11  # of rng.uniform: which far positions enter the loss


@dataclass(frozen=True)
class Window:
    """C response positions per state where the loss is taken."""

    positions: Tensor  # [B, C] int64, relative to the response
    weight: Tensor  # [B, C] float32, sums to 1 in every row that has a masked position, else 0


def loss_window(
    paths: Paths, t: Tensor, near: int, far: int, near_share: float, seed: int, keys: Tensor
) -> Window:
    """The ``near`` positions revealed next at state x_t and ``far`` others among the masked.

    The near ones share ``near_share`` of the weight, the far ones stand for all
    other masked positions. t: [B]; keys: [B] int64, what the choice is seeded with.
    """
    length = paths.rank.shape[1]
    ahead = paths.rank - t[:, None]  # [B, L], < 0 where revealed, 0 at the next position
    masked = ahead >= 0
    places = torch.arange(length, device=ahead.device)
    draws = rng.uniform(seed, keys[:, None], places[None], STREAM)
    # Near positions in order, then the other masked ones shuffled, then the revealed.
    key = torch.where(ahead < near, ahead.double(), length + draws)
    key = torch.where(masked, key, 3.0 * length)
    positions = key.argsort(dim=1)[:, : near + far]
    picked = ahead.gather(1, positions)
    is_near = ((picked >= 0) & (picked < near)).float()
    is_far = (picked >= near).float()
    n_near, n_far = is_near.sum(1, keepdim=True), is_far.sum(1, keepdim=True)
    share = torch.where(n_far > 0, near_share, 1.0) * (n_near > 0)
    weight = is_near * share / n_near.clamp_min(1) + is_far * (1 - share) / n_far.clamp_min(1)
    return Window(positions, weight)


@torch.no_grad()
def teacher_log_probs(
    teacher: Teacher, paths: Paths, ids: Tensor, windows: list[Window]
) -> tuple[Tensor, list[Tensor]]:
    """(hidden [B, S, H] of the first state, log-probs [B, C, V] at each later state's window).

    ids: [D + 1, B, S] the states x_t .. x_{t+D}; one teacher call for all of them.
    """
    depth, batch, length = ids.shape
    mask = paths.attention_mask
    mask = None if mask is None else mask.repeat(depth, 1)
    hidden = teacher.hidden(ids.reshape(depth * batch, length), mask).view(depth, batch, length, -1)
    targets = [
        torch.log_softmax(teacher.logits(take(h, paths.start, window.positions)), dim=-1)
        for h, window in zip(hidden[1:], windows, strict=True)
    ]
    return hidden[0], targets


def take(hidden: Tensor, start: int, positions: Tensor) -> Tensor:
    """hidden [B, S, H] at response positions [B, C] -> [B, C, H]."""
    return hidden.gather(1, (start + positions)[..., None].expand(-1, -1, hidden.shape[-1]))
