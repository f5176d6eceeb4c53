"""One distillation step: a batch of trajectories to a loss (arXiv 2509.22738, section 3.2).

From a random state x_t a round is opened and advanced along the recorded reveals;
at each depth d its conditionals are compared with the teacher's at x_{t+d}. The
paper draws one depth per example. Here every depth is scored with the paper's
weights, which costs (D + 1) / D teacher passes per scored state instead of 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampler import JointSampler, at_columns
from ..sampler.estimator import estimate_loss
from ..updates import Opening, Reveal, Trained, foresee
from ..updates.trained import TrainedRound
from .objective import losses
from .positions import DistillSettings, depth_weights
from .targets import DepthTargets, Targets, TeacherStates


@dataclass(frozen=True)
class DepthLoss:
    kl: Tensor  # scalar with gradient, nats per position
    estimate: Tensor  # scalar with gradient, of the estimator


def distill_step(
    states: TeacherStates,
    sampler: JointSampler,
    index: Tensor,
    starts: Tensor,
    settings: DistillSettings,
    seed: int,
    depths: int | None = None,
    step: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metrics) of the trajectories ``index`` [B] cut at ``starts`` [B].

    ``sampler``: the module or an engine around it; ``states``: those of the teacher
    with the layers that the sampler reads. ``depths``: updates to unroll, k_max - 1
    by default; ``step`` of the training seeds fresh tokens. Metrics are detached
    scalars: the weighted forward KL at each depth, "kl_d1" and so on, in nats per
    position, their weighted mean "loss", and "estimate_loss". The estimator learns
    from the KL at the position revealed next, without a gradient into the sampler.
    """
    depths = depths or settings.k_max - 1
    targets = states.targets(index, starts, settings, depths, seed, step)
    weights = depth_weights(settings, depths, targets.at.device)
    update = Trained(sampler)
    opening = Opening(targets.opening, None)
    state = update.begin(states.teacher, opening, targets.paths.attention_mask)
    made = [
        _depth(state, states, update, targets, d, target, d == depths)
        for d, target in enumerate(targets.depths, start=1)
    ]
    kl = torch.stack([depth.kl for depth in made])
    off = torch.stack([depth.estimate for depth in made]).mean()
    metrics = {f"kl_d{d}": depth.kl.detach() for d, depth in enumerate(made, start=1)}
    metrics |= {"loss": (kl.detach() * weights).sum(), "estimate_loss": off.detach()}
    return (kl * weights).sum() + off, metrics


def _depth(
    state: TrainedRound,
    states: TeacherStates,
    update: Trained,
    targets: Targets,
    d: int,
    target: DepthTargets,
    is_last: bool,
) -> DepthLoss:
    """The loss after the d-th update of the round."""
    teacher, paths, at = states.teacher, targets.paths, targets.at[d]
    each = torch.arange(len(at), device=at.device)
    where, columns = target.where, paths.start + target.where.positions
    ids = paths.state(at)
    revealed = paths.start + paths.order[each, (at - 1).clamp_min(0)]
    with torch.no_grad():  # the first loss position is the one revealed next
        seen = foresee(teacher, state, ids, columns[:, 0], revealed, d)
    guess = update.module.estimator.log_nats(seen)
    if is_last:  # no update follows: only the states in the loss are needed
        here = state.last(ids, columns)
    else:
        state.advance(Reveal(ids, revealed))
        here = at_columns(state.states, columns)
    nats = losses(teacher, target.truth, here[..., : teacher.hidden_size].flatten(0, 1))
    nats = nats.view_as(where.weight)
    alive = (targets.at[0] + d <= paths.reveals - 1).float()  # a path that ended has no next state
    alive = alive / alive.sum().clamp_min(1)
    off = estimate_loss(guess, nats[:, 0].detach())
    return DepthLoss(((nats * where.weight).sum(1) * alive).sum(), (off * alive).sum())
