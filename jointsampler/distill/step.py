"""One distillation step: a batch of trajectories to a loss (arXiv 2509.22738, section 3.2).

From a random state x_t the sampler is unrolled along the recorded reveals; at
each depth d its conditionals are compared with the teacher's at x_{t+d}. The
paper draws one depth per example; here every depth up to k_max - 1 is scored
with the paper's weights, which costs (D + 1) / D teacher passes per scored
state instead of 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..corpus.trajectories import Paths
from ..decoding.sampling import draw as inverse_cdf
from ..sampler.estimator import Foresight, estimate_loss
from ..sampler.model import JointSampler, at_columns
from ..teachers.protocol import Teacher
from ..window import recorded_window
from .objectives import OBJECTIVES, scored
from .offline import OfflineStates
from .targets import LossPositions, TeacherStates, reachable

STREAM_ROW, STREAM_START, STREAM_DEPTH = 12, 13, 14  # of rng.uniform


@dataclass(frozen=True)
class DistillSettings:
    k_max: int = 8  # the sampler is unrolled to depth k_max - 1 at most
    deeper: float = 1.0  # chance of one depth more, at each depth; 1 unrolls to the end every time
    depth_decay: float = 0.5  # weight of depth d is softmax(depth_decay ** d): deeper counts less
    near: int = 2  # positions revealed next that enter the loss
    far: int = 4  # random other masked positions that do
    fresh: float = 0.0  # share of the states that the teacher continues with new tokens
    near_share: float = 0.9  # the near positions' share of the weight
    objective: str = "forward_kl"  # a name in objectives.py
    hidden_weight: float = 0.0  # of the relative squared error of the hidden states


def depth_weights(settings: DistillSettings, depths: int, device: torch.device) -> Tensor:
    """[depths] float32, summing to 1."""
    each = torch.arange(depths, device=device, dtype=torch.float32)
    return torch.softmax(settings.depth_decay**each, dim=0)


def draw_depth(settings: DistillSettings, seed: int, step: int) -> int:
    """How deep a step unrolls, 1 .. k_max - 1: a pure function of (seed, step), the same on all ranks.

    Deeper is rarer (the paper draws one depth an example): a shallow step costs
    a fraction of a full one and teaches the same weights.
    """
    deepest = settings.k_max - 1
    if settings.deeper >= 1:
        return deepest
    draw = rng.uniform(seed, torch.tensor([step]), torch.tensor([0]), STREAM_DEPTH).item()
    return min(deepest, 1 + int(math.log(max(draw, 1e-12)) / math.log(settings.deeper)))


def draw_states(
    n_rows: int,
    length: int,
    count: int,
    seed: int,
    step: int,
    rank: int = 0,
    world: int = 1,
    weigh: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(row indices [count], starts t [count] in 0 .. length - 2) of one worker's step, int64.

    A worker draws among its own rows, those congruent to ``rank`` modulo
    ``world``, so that it need keep no other's states. A pure function of
    (seed, step, rank): resuming needs no data position. ``weigh``: rows [count] ->
    the weights [count, length - 1] that their starts are drawn with; all alike without.
    """
    draw = torch.arange(count) * world + rank
    own = (n_rows - rank + world - 1) // world
    pick = (rng.uniform(seed, step, draw, STREAM_ROW) * own).long()
    rows, uniform = rank + world * pick, rng.uniform(seed, step, draw, STREAM_START)
    if weigh is None:
        return rows, (uniform * (length - 1)).long()
    return rows, inverse_cdf(weigh(rows), uniform)


def start_weights(states: TeacherStates, certain: float) -> Callable[[Tensor], Tensor] | None:
    """For ``draw_states``: a start whose first token was certain weighs ``certain``, a surprising one 1.

    A reveal that was certain tells nothing, and what follows it is no news. None where certain is 1.
    """
    if certain == 1:
        return None
    return lambda rows: 1 - (1 - certain) * states.certainty(rows)[:, :-1]


def distill_step(
    states: TeacherStates | OfflineStates,
    sampler: JointSampler,
    index: Tensor,
    starts: Tensor,
    settings: DistillSettings,
    seed: int,
    depths: int | None = None,
    step: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(what to minimise, metrics) of the trajectories ``index`` [B] cut at ``starts`` [B].

    ``depths``: how deep to unroll, k_max - 1 if not said; ``step``: which step of a
    training, the seed of fresh tokens. ``sampler`` may be the module itself or an
    engine around it, ``states`` those of the teacher as the sampler reads it.
    Metrics are detached scalars: the weighted forward KL at each depth, "kl_d1" and
    so on, in nats per position, their mean over depths "loss", whatever the
    objective; "objective" itself; "estimate_loss". The estimator learns from the same KLs at the position
    revealed next, and moves nothing else.
    """
    plain = getattr(sampler, "module", sampler)
    estimator, teacher = plain.estimator, states.teacher
    depths = depths or settings.k_max - 1
    narrow = plain.config.window
    targets = states.targets(index, starts, settings, depths, seed, narrow, step)
    paths, opening = targets.paths, targets.opening
    t, last = targets.at[0], paths.order.shape[1] - 1
    weights = depth_weights(settings, depths, t.device)
    objective, size = OBJECTIVES[settings.objective], teacher.hidden_size
    hidden, within = opening, reachable(paths, t, narrow)
    candidates = recorded_window(paths.rank, t, narrow, paths.start) if narrow else None
    zero = opening.new_zeros((), dtype=torch.float32)
    loss, off, drift, metrics = zero, zero, zero, {}
    for d, target in enumerate(targets.depths, start=1):
        where, at = target.where, targets.at[d]
        before, columns = hidden, paths.start + where.positions
        # Nothing follows the last pass, so it is made only where it is scored.
        only_here = d == depths and not settings.hidden_weight
        hidden = sampler(
            teacher.embed(paths.state(at)),
            before,
            paths.attention_mask,
            candidates,
            columns if only_here else None,
        )
        here = (hidden if only_here else at_columns(hidden, columns))[..., :size]
        value, nats = scored(
            teacher,
            objective,
            target.truth,
            here.flatten(0, 1),
            paths.ids.gather(1, columns).flatten(),
        )
        alive = (t + d <= last).float()  # a path that ended scores nothing
        alive = alive / alive.sum().clamp_min(1)

        def mean(value: Tensor, where: LossPositions = where, alive: Tensor = alive) -> Tensor:
            return ((value.view_as(where.weight) * where.weight).sum(1) * alive).sum()

        loss = loss + weights[d - 1] * mean(value)
        metrics[f"kl_d{d}"] = mean(nats)
        if settings.hidden_weight:
            error = hidden_error(hidden[:, paths.start :, :size], target.hidden, paths, at, within)
            drift = drift + weights[d - 1] * (error * alive).sum()
        # The first of the positions is the one revealed next, which is where decoding asks.
        guess = estimator.log_nats(
            foresight(teacher, paths, at, before.detach(), opening, where.positions[:, 0], d)
        )
        next_nats = nats.view_as(where.weight)[:, 0]
        off = off + (estimate_loss(guess, next_nats) * alive).sum() / depths
    mean_nats = (torch.stack(list(metrics.values())) * weights).sum()
    metrics |= {"loss": mean_nats, "objective": loss.detach(), "estimate_loss": off.detach()}
    if settings.hidden_weight:
        metrics["hidden_error"] = drift.detach()
    return loss + settings.hidden_weight * drift + off, metrics


def hidden_error(
    response: Tensor, truth: Tensor, paths: Paths, at: Tensor, within: Tensor | None = None
) -> Tensor:
    """[B] squared error of hidden states [B, L, H] at masked positions, relative to the teacher's size.

    within: [B, L] bool, the positions that count; None is all.
    """
    truth = truth[:, paths.start :].float()
    masked = (paths.rank >= at[:, None]).float()
    if within is not None:
        masked = masked * within
    gap = (response.float() - truth).pow(2).sum(-1)
    scale = truth.pow(2).sum(-1)
    return (gap * masked).sum(1) / (scale * masked).sum(1).clamp_min(1e-6)


def foresight(
    teacher: Teacher,
    paths: Paths,
    at: Tensor,
    states: Tensor,
    opening: Tensor,
    position: Tensor,
    depth: int,
) -> Foresight:
    """What the estimator knows before pass ``depth`` of the reveal at ``position`` [B] from x_at."""
    each = torch.arange(len(at), device=at.device)
    before = paths.order[each, at - 1]  # revealed last
    column = paths.start + position
    here = states[each, column]
    with torch.no_grad():
        return Foresight(
            here,
            opening[each, column],
            teacher.logits(here),
            teacher.embed(paths.ids[each, paths.start + before][:, None])[:, 0],
            position - before,
            depth,
        )
