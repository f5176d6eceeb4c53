"""Where a distillation step takes its loss, and from which states.

The loss is taken at the positions revealed next, which decoding reads from the
sampler, and at random other masked positions, so that all positions are trained.
Every choice is a pure function of seed, step and row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..corpus.trajectories import Paths
from ..decoding.sampling import draw as inverse_cdf


@dataclass(frozen=True)
class DistillSettings:
    k_max: int = 8  # the sampler is unrolled to depth k_max - 1 at most
    deeper: float = 1.0  # chance of one depth more, at each depth; 1 always unrolls to the end
    depth_decay: float = 0.5  # weight of depth d is softmax(depth_decay ** d): deeper counts less
    near: int = 2  # positions revealed next that enter the loss
    far: int = 4  # random other masked positions that enter it
    near_share: float = 0.9  # the near positions' share of the weight


@dataclass(frozen=True)
class LossPositions:
    """C response positions per state where the loss is taken."""

    positions: Tensor  # [B, C] int64, relative to the response
    weight: Tensor  # [B, C] float32, sums to 1 in every row that has a masked position, else 0


def state_keys(paths: Paths, row_ids: Tensor, starts: Tensor) -> Tensor:
    """[B] int64, one per state: the seed of its far positions."""
    return row_ids.to(starts.device) * paths.order.shape[1] + starts


def loss_positions(
    paths: Paths, t: Tensor, settings: DistillSettings, seed: int, keys: Tensor
) -> LossPositions:
    """The ``near`` positions revealed next at state x_t and ``far`` others among the masked.

    The near ones share ``near_share`` of the weight, the far ones stand for all
    other masked positions. Positions that the row never reveals (behind its end)
    are left out. t: [B]; keys: [B] int64, of :func:`state_keys`.
    """
    near, length = settings.near, paths.rank.shape[1]
    ahead = paths.rank - t[:, None]  # [B, L], < 0 where revealed, 0 at the next position
    masked = (ahead >= 0) & (paths.rank < paths.reveals[:, None])
    places = torch.arange(length, device=ahead.device)
    draws = rng.uniform(seed, keys[:, None], places[None], rng.FAR)
    # Near positions in order, then the other masked ones shuffled, then all others.
    key = torch.where(ahead < near, ahead.double(), length + draws)
    key = torch.where(masked, key, 3.0 * length)
    positions = key.argsort(dim=1)[:, : near + settings.far]
    picked, live = ahead.gather(1, positions), masked.gather(1, positions)
    is_near = (live & (picked < near)).float()
    is_far = (live & (picked >= near)).float()
    n_near, n_far = is_near.sum(1, keepdim=True), is_far.sum(1, keepdim=True)
    share = torch.where(n_far > 0, settings.near_share, 1.0) * (n_near > 0)
    weight = is_near * share / n_near.clamp_min(1) + is_far * (1 - share) / n_far.clamp_min(1)
    return LossPositions(positions, weight)


def depth_weights(settings: DistillSettings, depths: int, device: torch.device) -> Tensor:
    """[depths] float32, summing to 1."""
    each = torch.arange(depths, device=device, dtype=torch.float32)
    return torch.softmax(settings.depth_decay**each, dim=0)


def draw_depth(settings: DistillSettings, seed: int, step: int) -> int:
    """How many updates a step unrolls, 1 .. k_max - 1: a function of (seed, step), the same on all ranks.

    Deeper is rarer (the paper draws one depth an example): a shallow step costs
    a fraction of a full one and teaches the same weights.
    """
    deepest = settings.k_max - 1
    if settings.deeper >= 1:
        return deepest
    draw = rng.uniform(seed, torch.tensor([step]), torch.tensor([0]), rng.DEPTH).item()
    return min(deepest, 1 + int(math.log(max(draw, 1e-12)) / math.log(settings.deeper)))


def draw_jumps(settings: DistillSettings, count: int, seed: int, step: int) -> Tensor:
    """[count] int64 in 1 .. k_max - 1: reveals from the opening to the state that a hybrid learns from.

    One per state, with the probabilities of :func:`depth_weights`.
    """
    draws = rng.uniform(seed, step, torch.arange(count), rng.DEPTH)
    weights = depth_weights(settings, settings.k_max - 1, draws.device)
    return 1 + inverse_cdf(weights.expand(count, -1), draws)


def draw_states(reveals: Tensor, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """(row indices [count], starts t [count]) of a step's states, int64.

    reveals: [N] int64, recorded reveals of each row; t is in 0 .. reveals - 2, so
    at least one reveal follows the first of the round, and no state lies behind a
    row's end. State i takes its row from the i-th of ``count`` equal parts of the
    corpus (stratified sampling): every row has the same chance, and a worker with a
    few of the states sees :func:`rows_of` them alone, in every step. The draw is a
    function of (seed, step, i): resuming needs no data position, and no state depends
    on the number of workers.
    """
    state = torch.arange(count)
    place = (state + rng.uniform(seed, step, state, rng.ROW)) * (len(reveals) / count)
    rows = place.long().clamp_max(len(reveals) - 1)
    uniform = rng.uniform(seed, step, state, rng.START)
    return rows, (uniform * (reveals[rows] - 1).clamp_min(1)).long()


def rows_of(states: range, count: int, n_rows: int) -> range:
    """The rows from which :func:`draw_states` takes ``states`` of ``count``, of a corpus of ``n_rows``."""
    return range(states.start * n_rows // count, -(-states.stop * n_rows // count))
