"""A head on the teacher's hidden states that predicts how much a reveal changes other positions.

The idea of DEMASK (arXiv 2604.02560): from one full pass, the influence of every
masked position j on every other i, as the total variation between the teacher's
distributions at i before and after j is revealed, its token drawn from its own
distribution. Here the head is two projections of rank ``rank`` and a bias per
distance, trained on one reveal and one more full pass for each state of
``states.py``. The paper's head is larger.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import rng
from ..decoding.sampling import draw
from ..teachers.protocol import Teacher
from .states import MaskedStates, shuffled

_BATCH = 64


class DependencyHead(nn.Module):
    """States [..., H] of a position and of a position that is revealed -> influence in [0, 1]."""

    def __init__(self, hidden_size: int, rank: int = 32, reach: int = 32, seed: int = 0):
        super().__init__()
        self.reach = reach
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.read, self.give = (nn.Parameter(_small(rank, hidden_size, seed, i)) for i in (0, 1))
        self.alone = nn.Parameter(torch.zeros(2, hidden_size))
        self.distance = nn.Parameter(torch.full((2 * reach + 1,), -3.0))

    def log_odds(self, states: Tensor, revealed: Tensor, offset: Tensor) -> Tensor:
        """states [B, S, H], revealed [B, H], offset [B, S] positions between -> [B, S]."""
        states, revealed = self.norm(states), self.norm(revealed)
        pair = (states @ self.read.T @ (revealed @ self.give.T)[..., None])[..., 0]
        own = states @ self.alone[0] + (revealed @ self.alone[1])[:, None]
        return pair + own + self.distance[offset.clamp(-self.reach, self.reach) + self.reach]

    def forward(self, states: Tensor, revealed: Tensor, offset: Tensor) -> Tensor:
        return self.log_odds(states, revealed, offset).sigmoid()


def _small(rank: int, size: int, seed: int, which: int) -> Tensor:
    keys = torch.arange(rank)[:, None], torch.arange(size)
    draws = rng.uniform(seed, *keys, rng.RIVAL_WEIGHTS, 2 + which)
    return ((draws - 0.5) * 0.2).float()


@torch.inference_mode()
def influences(teacher: Teacher, states: MaskedStates, seed: int) -> tuple[Tensor, Tensor]:
    """(the position revealed in each state [N], total variation at each position [N, L])."""
    rows = torch.arange(len(states))
    places = torch.arange(states.length)
    draws = rng.uniform(seed, rows[:, None], places, rng.RIVAL_REVEAL, 0).to(states.ids.device)
    position = draws.masked_fill(~states.masked, 2.0).argmin(1)
    uniform = rng.uniform(seed, rows, rng.RIVAL_REVEAL, 1).to(states.ids.device)
    found = []
    for part in rows.split(_BATCH):
        each, at = torch.arange(len(part)), position[part]
        before = teacher.logits(states.hidden[part]).softmax(-1)
        token = draw(before[each, at], uniform[part])
        ids = states.ids[part].clone()
        ids[each, ids.shape[1] - states.length + at] = token
        hidden = teacher.hidden(ids, states.attention_mask[part])[:, -states.length :]
        after = teacher.logits(hidden).softmax(-1)
        found.append((after - before).abs().sum(-1) / 2)
    return position, torch.cat(found)


def train_head(
    teacher: Teacher,
    states: MaskedStates,
    rank: int = 32,
    steps: int = 600,
    batch: int = 128,
    rate: float = 3e-3,
    seed: int = 0,
) -> tuple[DependencyHead, list[float]]:
    """(a head for this teacher, the cross-entropy of each step in nats per pair)."""
    position, target = (x.clone() for x in influences(teacher, states, seed))
    head = DependencyHead(teacher.hidden_size, rank, seed=seed).to(teacher.device)
    optimizer = torch.optim.Adam(head.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    places = torch.arange(states.length, device=position.device)
    losses = []
    for index in shuffled(len(states), batch, steps, seed + 1):
        hidden = states.hidden[index].clone().float()
        each, at = torch.arange(len(index)), position[index]
        others = states.masked[index] & (places != at[:, None])
        guess = head.log_odds(hidden, hidden[each, at], places - at[:, None])
        loss = F.binary_cross_entropy_with_logits(
            guess[others], target[index][others].clamp(0, 1).clone()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return head.eval().requires_grad_(False), losses
