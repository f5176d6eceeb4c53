"""One distillation step: a batch of trajectories to a loss (arXiv 2509.22738, section 3.2).

From a random state x_t the sampler is unrolled along the recorded reveals; at
each depth d its conditionals are compared with the teacher's at x_{t+d}. The
paper draws one depth per example; here every depth up to k_max - 1 is scored
with the paper's weights, which costs (D + 1) / D teacher passes per scored
state instead of 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..divergence import forward_kl
from ..estimator import estimate_loss
from ..sampler import JointSampler
from ..trajectories import Paths
from .targets import TeacherStates, loss_window, take

STREAM_ROW, STREAM_START = 12, 13  # of rng.uniform


@dataclass(frozen=True)
class DistillSettings:
    k_max: int = 8  # the sampler is unrolled to depth k_max - 1
    depth_decay: float = 0.5  # weight of depth d is softmax(depth_decay ** d): deeper counts less
    near: int = 2  # positions revealed next that enter the loss
    far: int = 4  # random other masked positions that do
    near_share: float = 0.9  # the near positions' share of the weight


def depth_weights(settings: DistillSettings, device: torch.device) -> Tensor:
    """[k_max - 1] float32, summing to 1."""
    depths = torch.arange(settings.k_max - 1, device=device, dtype=torch.float32)
    return torch.softmax(settings.depth_decay**depths, dim=0)


def draw_states(
    n_rows: int, length: int, count: int, seed: int, step: int, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor]:
    """(row indices [count], starts t [count] in 0 .. length - 2) of one worker's step, int64.

    A worker draws among its own rows, those congruent to ``rank`` modulo
    ``world``, so that it need keep no other's states. A pure function of
    (seed, step, rank): resuming needs no data position.
    """
    draw = torch.arange(count) * world + rank
    own = (n_rows - rank + world - 1) // world
    pick = (rng.uniform(seed, step, draw, STREAM_ROW) * own).long()
    starts = (rng.uniform(seed, step, draw, STREAM_START) * (length - 1)).long()
    return rank + world * pick, starts


def distill_step(
    states: TeacherStates,
    sampler: JointSampler,
    index: Tensor,
    starts: Tensor,
    settings: DistillSettings,
    seed: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(what to minimise, metrics) of the trajectories ``index`` [B] cut at ``starts`` [B].

    ``sampler`` may be the module itself or an engine around it. Metrics are
    detached scalars: the weighted KL at each depth, "kl_d1" and so on, in nats
    per position, their mean over depths "loss", and "estimate_loss". The estimator learns from the same KLs at
    the position revealed next, and moves nothing else.
    """
    estimator = getattr(sampler, "module", sampler).estimator
    teacher, rows = states.teacher, states.trajectories.select(index)
    paths = Paths.of(rows, teacher)
    t = starts.to(teacher.device)
    last = paths.order.shape[1] - 1  # the last state with a masked position
    depths = settings.k_max - 1
    at = torch.stack([(t + d).clamp_max(last) for d in range(depths + 1)])
    keys = rows.row_ids.to(teacher.device) * (last + 1) + t
    true_hidden = states.hidden(index, paths, at)
    weights = depth_weights(settings, t.device)
    hidden = true_hidden[0]
    opening, off = hidden, hidden.new_zeros((), dtype=torch.float32)
    loss, metrics = hidden.new_zeros((), dtype=torch.float32), {}
    for d in range(1, depths + 1):
        window = loss_window(
            paths, at[d], settings.near, settings.far, settings.near_share, seed, keys
        )
        hidden = sampler(teacher.embed(paths.state(at[d])), hidden, paths.attention_mask)
        with torch.no_grad():
            target = torch.log_softmax(
                teacher.logits(take(true_hidden[d], paths.start, window.positions)), dim=-1
            )
        states_here = take(hidden, paths.start, window.positions)
        logits = teacher.logits(states_here)
        kl = forward_kl(target, logits)
        alive = (t + d <= last).float()  # a path that ended scores nothing
        per_row = (kl * window.weight).sum(1) * alive
        mean = per_row.sum() / alive.sum().clamp_min(1)
        loss = loss + weights[d - 1] * mean
        metrics[f"kl_d{d}"] = mean.detach()
        # The window's first position is the one revealed next, which is where decoding asks.
        before = take(opening, paths.start, window.positions[:, :1])[:, 0]
        guess = estimator.log_nats(
            states_here[:, 0].detach(), before, logits[:, 0].detach(), depth=d
        )
        missed = (estimate_loss(guess, kl[:, 0]) * alive).sum() / alive.sum().clamp_min(1)
        off = off + missed / depths
    metrics |= {"loss": loss.detach(), "estimate_loss": off.detach()}
    return loss + off, metrics
