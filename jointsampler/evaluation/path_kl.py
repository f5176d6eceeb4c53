"""KL per token of any method along teacher trajectories: what block KL is to a fixed k.

A trajectory is walked from its first reveal to its last in the blocks that the
method's stop rule makes of it, at the recorded positions: each token after a
block's first adds KL(teacher || model) there. Methods with blocks of different
lengths become comparable: nats per token against tokens per pass. A verified
method's law is the teacher's own, so it has nothing to be measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..corpus.trajectories import Paths, Trajectories
from ..decoding.methods import Method
from ..decoding.orders import OrderPolicy, get_order
from ..decoding.stops import Candidate, StopRule
from ..divergence import forward_kl
from ..errors import UserError
from ..sampler.estimator import Foresight
from ..sampler.model import JointSampler
from ..teachers.protocol import Teacher
from .block_kl import opening_window
from .stats import Estimate, bootstrap


@dataclass(frozen=True)
class PathKL:
    nats_per_token: Estimate
    tokens_per_teacher_pass: float
    teacher_passes: np.ndarray  # [n] per trajectory
    sampler_passes: np.ndarray  # [n], those included whose token was then refused
    guesses: np.ndarray  # [m, 2]: the sampler's estimates and the true KLs, nats; m = 0 without


class Reference:
    """Trajectories with the teacher's states at each next position, computed once for many walks."""

    def __init__(self, teacher: Teacher, trajectories: Trajectories, batch_size: int = 128):
        trajectories.check_teacher(teacher)
        self.trajectories = trajectories
        self.parts = [
            (rows, _states(teacher, rows))
            for rows in (
                trajectories.select(part)
                for part in torch.arange(len(trajectories)).split(batch_size)
            )
        ]


@torch.inference_mode()
def _states(teacher: Teacher, rows: Trajectories) -> Tensor:
    """[L, B, H]: the teacher's state at the position revealed next, before each reveal."""
    paths = Paths.of(rows, teacher)
    batch, length = paths.order.shape
    each = torch.arange(batch, device=teacher.device)
    states = []
    for step in range(length):
        t = torch.full((batch,), step, device=teacher.device)
        hidden = teacher.hidden(paths.state(t), paths.attention_mask)
        states.append(hidden[each, paths.start + paths.order[:, step]])
    return torch.stack(states)


@torch.inference_mode()
def path_kl(
    teacher: Teacher,
    sampler: JointSampler | None,
    reference: Reference,
    method: Method,
    stop: StopRule,
    order: str = "entropy",
) -> PathKL:
    """Walk the trajectories of ``reference`` with ``method`` and its ``stop`` rule; intervals over trajectories.

    ``order``: the trajectories' policy, which opens the windows of a sampler that has them.

    Raises UserError: a verified method, one that picks its own positions (klass), one that needs a sampler without
    one, a sampler of another teacher.
    """
    if method.verification is not None:
        raise UserError(f"Method {method.name!r} has the teacher's own law: its path KL is 0.")
    if hasattr(stop, "watcher"):
        raise UserError(
            f"Method {method.name!r} picks its own positions: it has no KL along recorded ones."
        )
    if method.uses_sampler:
        if sampler is None:
            raise UserError(f"Method {method.name!r} needs a sampler: pass one.")
        teacher = sampler.reading(teacher)
        if method.has_k:
            sampler.check_block(stop.limit)
    policy = get_order(order)
    walks = [
        _walk(teacher, sampler, rows, truth, method, stop, policy)
        for rows, truth in reference.parts
    ]
    nats, passes, sampled = (torch.cat([walk[i] for walk in walks]).cpu().numpy() for i in range(3))
    guesses = torch.cat([walk[3] for walk in walks]).cpu().numpy()
    length = reference.trajectories.length
    return PathKL(
        bootstrap(lambda mean: mean[..., 0], nats[:, None] / length),
        length * len(nats) / float(passes.sum()),
        passes,
        sampled,
        guesses,
    )


def _walk(
    teacher: Teacher,
    sampler: JointSampler | None,
    rows: Trajectories,
    truth: Tensor,
    method: Method,
    stop: StopRule,
    order: OrderPolicy,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per row: nats, teacher passes, sampler passes; and [m, 2] estimates beside true KLs."""
    paths = Paths.of(rows, teacher)
    batch, length = paths.order.shape
    device = teacher.device
    each = torch.arange(batch, device=device)

    def column(t: Tensor) -> Tensor:
        return paths.start + paths.order[each, t.clamp_max(length - 1)]

    t = torch.zeros(batch, dtype=torch.long, device=device)
    nats = torch.zeros(batch, dtype=torch.float64, device=device)
    passes, sampled, guesses = torch.zeros_like(t), torch.zeros_like(t), []
    estimates = getattr(stop, "needs_estimate", False)
    narrow = sampler.config.window if method.uses_sampler else 0
    while bool((t < length).any()):
        in_block = t < length
        passes += in_block
        opening = hidden = teacher.hidden(paths.state(t), paths.attention_mask)
        window = None
        if method.uses_sampler:
            window = opening_window(teacher, sampler, rows, paths, opening, t, order)
        memory, made = None, torch.zeros_like(t)
        for reveal in range(min(stop.limit, length, narrow or length)):
            at = t + reveal
            if reveal > 0:
                in_block = in_block & (at < length)
                if estimates:
                    column_before = column(at - 1)
                    seen = Foresight(
                        hidden[each, column(at)],
                        opening[each, column(at)],
                        teacher.logits(hidden[each, column(at)]),
                        teacher.embed(paths.ids[each, column_before][:, None])[:, 0],
                        column(at) - column_before,
                        reveal,
                    )
                    estimate = sampler.estimator(seen)
                    entered = in_block
                    stays, memory = stop.goes_on(memory, Candidate(seen.logits, reveal, estimate))
                    in_block = in_block & stays
                if not bool(entered.any() if estimates else in_block.any()):
                    break
                if method.uses_sampler:
                    ids = paths.state(at.clamp_max(length))
                    hidden = sampler(teacher.embed(ids), hidden, paths.attention_mask, window)
                    sampled += in_block
            logits = teacher.logits(hidden[each, column(at)])
            if reveal == 0:
                memory = stop.begin(Candidate(logits, reveal))
            else:
                target = teacher.logits(truth[at.clamp_max(length - 1), each])
                kl = forward_kl(torch.log_softmax(target, dim=-1), logits)
                if estimates:
                    guesses.append(torch.stack([estimate, kl], dim=-1)[entered])
                else:
                    stays, memory = stop.goes_on(memory, Candidate(logits, reveal))
                    in_block = in_block & stays
                nats += torch.where(in_block, kl, 0.0)
            made += in_block
        t = t + made
    pairs = torch.cat(guesses) if guesses else torch.zeros(0, 2)
    return nats, passes, sampled, pairs


def calibration(guesses: np.ndarray, bins: int = 8) -> list[tuple[float, float, int]]:
    """(mean estimate, mean true KL, count) in equally filled bins of the estimate."""
    ordered = guesses[np.argsort(guesses[:, 0], kind="stable")]
    parts = np.array_split(ordered, min(bins, max(1, len(ordered))))
    return [(float(p[:, 0].mean()), float(p[:, 1].mean()), len(p)) for p in parts if len(p)]
