"""Block KL: the distance to the true joint per block of k reveals, in nats.

Along teacher trajectories, D_k = E[sum_{j<k} KL(teacher(x_{t+j})[i_j] || q_j[i_j])]
with i_j the recorded position of reveal t + j and q_j the model's law there: the
marginal model's is the teacher's at the block's start, the sampler's follows
from j sampler passes. For the marginal model D_k is the conditional total
correlation of the block. Captured dependency = 1 - D_k(sampler) / D_k(marginal):
0 is the marginal model, 1 the true joint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..corpus.trajectories import Paths, Trajectories
from ..decoding.generate import Generation
from ..decoding.orders import OrderPolicy, get_order
from ..decoding.scoring import order_scores
from ..divergence import forward_kl
from ..errors import UserError
from ..sampler.model import JointSampler
from ..teachers.protocol import Teacher
from ..window import Window
from .stats import Estimate, bootstrap


@dataclass(frozen=True)
class BlockKL:
    k: int
    marginal: Estimate  # nats per block
    sampler: Estimate | None  # nats per block; None without a sampler
    captured: Estimate | None  # 1 - sampler / marginal
    blocks: int
    per_trajectory: np.ndarray  # [n, 2] nats per block, marginal and sampler (nan without one)


def summarize(k: int, per_trajectory: np.ndarray, blocks: int) -> BlockKL:
    """Estimates from per-trajectory means [n, 2]; intervals over trajectories, paired."""
    marginal = bootstrap(lambda m: m[..., 0], per_trajectory)
    if np.isnan(per_trajectory[:, 1]).any():
        return BlockKL(k, marginal, None, None, blocks, per_trajectory)
    return BlockKL(
        k,
        marginal,
        bootstrap(lambda m: m[..., 1], per_trajectory),
        bootstrap(lambda m: 1 - m[..., 1] / m[..., 0], per_trajectory),
        blocks,
        per_trajectory,
    )


@torch.inference_mode()
def block_kl(
    teacher: Teacher,
    sampler: JointSampler | None,
    trajectories: Trajectories | Generation,
    k: int = 4,
    temperature: float = 1.0,
    batch_size: int = 128,
    order: str = "entropy",
) -> BlockKL:
    """The block KL of the marginal model and of ``sampler`` on ``trajectories``.

    Blocks start at reveals 0, k, 2k, ... of each trajectory; a last partial one
    is left out. ``temperature`` divides all logits before the comparison; top-p
    plays no part, because laws with different supports have no finite KL. Where
    the sampler has a window, ``order`` (the trajectories' policy) says what is in
    it; a recorded reveal outside counts with the marginal law, though decoding
    would put it off.

    Raises UserError: k < 2 or larger than the response or than the sampler's
    window, a sampler or a corpus of another teacher, trajectories that are not
    sequential.
    """
    if isinstance(trajectories, Generation):
        trajectories = Trajectories.from_generation(trajectories, 0, teacher)
    trajectories.check_teacher(teacher)
    if sampler is not None:
        teacher = sampler.reading(teacher)
    length = trajectories.length
    if not 2 <= k <= length:
        raise UserError(f"Block KL needs k between 2 and the response length {length}, not {k}.")
    if not temperature > 0:
        raise UserError(f"Block KL needs a positive temperature, not {temperature}.")
    if sampler is not None:
        sampler.check_block(k)
    policy = get_order(order)
    starts = torch.arange(0, length - k + 1, k)
    n, per_row = len(trajectories), len(starts)
    index = torch.arange(n).repeat_interleave(per_row)  # block -> trajectory
    begin = starts.repeat(n)
    sums = np.full((n * per_row, 2), np.nan)
    for at in range(0, len(index), batch_size):
        part = slice(at, at + batch_size)
        rows = trajectories.select(index[part])
        t = begin[part].to(teacher.device)
        marginal, sampled = _blocks(teacher, sampler, rows, t, k, temperature, policy)
        sums[part, 0] = marginal.double().cpu().numpy()
        if sampled is not None:
            sums[part, 1] = sampled.double().cpu().numpy()
    return summarize(k, sums.reshape(n, per_row, 2).mean(axis=1), n * per_row)


def opening_window(
    teacher: Teacher,
    sampler: JointSampler | None,
    rows: Trajectories,
    paths: Paths,
    opening: Tensor,
    t: Tensor,
    order: OrderPolicy,
) -> Window | None:
    """The window that decoding would open at x_t, t [B]; None where the sampler has none."""
    if sampler is None or not sampler.config.window:
        return None
    hidden, masked = opening[:, paths.start :], paths.rank >= t[:, None]
    ids = rows.row_ids.to(t.device)
    scores = order_scores(teacher, hidden, masked, ids, order, rows.seed, masked.shape[1])
    return Window.first(scores, sampler.config.window, paths.start)


def _blocks(
    teacher: Teacher,
    sampler: JointSampler | None,
    rows: Trajectories,
    t: Tensor,
    k: int,
    temperature: float,
    order: OrderPolicy,
) -> tuple[Tensor, Tensor | None]:
    """Summed KL [B] of one block per row, starting at reveal t [B]: (marginal, sampler or None)."""
    paths = Paths.of(rows, teacher)
    each = torch.arange(len(t), device=t.device)
    opening = teacher.hidden(paths.state(t), paths.attention_mask)
    hidden, window = opening, opening_window(teacher, sampler, rows, paths, opening, t, order)
    marginal = torch.zeros(len(t), device=t.device)
    sampled = torch.zeros(len(t), device=t.device)
    for j in range(1, k):  # at j = 0 all three laws are the same
        ids = paths.state(t + j)
        column = paths.start + paths.order[each, t + j]

        def law(h: Tensor, column: Tensor = column) -> Tensor:
            return teacher.logits(h[each, column]) / temperature

        truth = torch.log_softmax(law(teacher.hidden(ids, paths.attention_mask)), dim=-1)
        marginal += forward_kl(truth, law(opening))
        if sampler is not None:
            hidden = sampler(teacher.embed(ids), hidden, paths.attention_mask, window)
            sampled += forward_kl(truth, law(hidden))
    return marginal, (sampled if sampler is not None else None)
