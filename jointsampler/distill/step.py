"""One distillation step: a batch of trajectories to a loss (arXiv 2509.22738, section 3.2).

From a random state x_t a round is opened, and after d recorded reveals its
conditionals are compared with the teacher's at x_{t+d}. The paper's form is
recurrent: the step unrolls it, and scores every depth with the paper's weights. A
hybrid is a function of the opening and of x_{t+d} alone: a state is one pass, and d
is drawn with these weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sampler import JointSampler, at_columns
from ..sampler.estimator import estimate_loss
from ..updates import Opening, Reveal, Trained, foresee
from ..updates.hybrid import carried
from .batch import Batch
from .objective import losses
from .positions import DistillSettings, depth_weights
from .targets import Targets, TeacherStates


@dataclass(frozen=True)
class DepthLoss:
    kl: Tensor  # scalar with gradient, nats per position
    estimate: Tensor  # scalar with gradient, of the estimator


def distill_step(
    states: TeacherStates,
    sampler: JointSampler,
    batch: Batch,
    settings: DistillSettings,
    seed: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, metrics) of a batch, or of a part of one: those of its parts sum to the batch's.

    ``sampler``: the module or an engine around it; ``states``: those of the teacher
    with the layers that the sampler reads.
    Metrics are detached scalars: the weighted forward KL of each pass, "kl_d1" and
    so on for the paper's form, in nats per position, their weighted mean "loss", and
    "estimate_loss". The estimator learns from the KL at the position revealed
    next, without a gradient into the sampler.
    """
    module: JointSampler = getattr(sampler, "module", sampler)
    targets = states.targets(batch.index, batch.starts, batch.advances, settings, seed)
    passes = _jump if module.config.depth else _unroll
    made = [
        _score(states, module, targets, d, batch, here)
        for d, here in enumerate(passes(states, sampler, targets))
    ]
    weights = depth_weights(settings, len(made), targets.at.device)
    kl = torch.stack([depth.kl for depth in made])
    off = torch.stack([depth.estimate for depth in made]).mean()
    loss = (kl * weights).sum()
    metrics = {"loss": loss.detach(), "estimate_loss": off.detach()}
    if len(made) > 1:
        metrics |= {f"kl_d{d}": depth.kl.detach() for d, depth in enumerate(made, start=1)}
    return loss + off, metrics


def _unroll(states: TeacherStates, sampler: JointSampler, targets: Targets) -> Iterator[Tensor]:
    """The sampler's states [B, C, H] at the loss positions of each later state, recurrently."""
    paths = targets.paths
    each = torch.arange(len(paths.ids), device=paths.ids.device)
    opening = Opening(targets.read[0], None)
    state = Trained(sampler).begin(states.teacher, opening, paths.attention_mask)
    for d, where in enumerate(targets.where, start=1):
        at, columns = targets.at[d], paths.start + where.positions
        ids = paths.state(at)
        if d == len(targets.where):  # no update follows: only the states in the loss are needed
            yield state.last(ids, columns)
            return
        state.advance(Reveal(ids, paths.start + paths.order[each, (at - 1).clamp_min(0)]))
        yield at_columns(state.states, columns)


def _jump(states: TeacherStates, sampler: JointSampler, targets: Targets) -> Iterator[Tensor]:
    """The same of a hybrid, one pass for each later state, with every column recomputed."""
    teacher, paths = states.teacher, targets.paths
    low_before, top_before = targets.read[0].split(teacher.hidden_size, dim=-1)
    for read, where in zip(targets.read[1:], targets.where, strict=True):
        low = read[..., : teacher.hidden_size]
        guess = carried(teacher, low, low_before, top_before)
        columns = paths.start + where.positions
        yield sampler(low, guess, paths.attention_mask, columns, low_before)


def _score(
    states: TeacherStates,
    module: JointSampler,
    targets: Targets,
    d: int,
    batch: Batch,
    here: Tensor,
) -> DepthLoss:
    """The loss of the sampler's states ``here`` [B, C, H], ``advances[d]`` reveals after the opening."""
    teacher, paths, at, where = states.teacher, targets.paths, targets.at[d + 1], targets.where[d]
    nats = losses(teacher, targets.truth[d], here.flatten(0, 1)).view_as(where.weight)
    advance, weights = batch.advances[d].to(at), batch.weights[d].to(nats)
    each = torch.arange(len(at), device=at.device)
    position = paths.start + where.positions[:, 0]  # the first loss position is revealed next
    revealed = paths.start + paths.order[each, (at - 1).clamp_min(0)]
    with torch.no_grad():
        opening = states.final(targets.read[0][each, position])
        seen = foresee(
            teacher, here[:, 0].detach(), opening, paths.state(at), position, revealed, advance
        )
    off = estimate_loss(module.estimator.log_nats(seen), nats[:, 0].detach())
    return DepthLoss(((nats * where.weight).sum(1) * weights).sum(), (off * weights).sum())
