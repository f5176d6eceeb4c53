"""The sampler's estimate of its own error: the KL that one more reveal would add.

A small head beside the joint sampler, trained on the true KL(teacher || sampler)
that distillation computes anyway. It reads the states after the update, where the
method would reveal next. No gradient flows from it into the sampler. The stop rule
that uses the estimate is ``decoding/stops/adaptive.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INNER = 96
_BOUND = 20.0  # of x / m in the loss
_LOG_RANGE = (-14.0, 5.0)  # of the estimate: from rounding error to more than any KL seen


@dataclass(frozen=True)
class Foresight:
    """The inputs of an estimate for N rows. See ``updates.foresee``."""

    states: Tensor  # [N, H or more] at the position that would be revealed next
    opening: Tensor  # [N, H or more] there, as the round's full pass left them
    logits: Tensor  # [N, V] there
    revealed: Tensor  # [N, H] embedding of the token revealed last
    distance: Tensor  # [N] int64, positions between the two
    depth: Tensor  # [N] int64, reveals of the round so far, at least 1


class KLEstimator(nn.Module):
    """:class:`Foresight` of N rows -> [N] nats."""

    def __init__(self, hidden_size: int, norm_eps: float):
        super().__init__()
        # The norms have no weights of their own: the next layer learns the scale.
        self.hidden_size, self.eps = hidden_size, norm_eps
        self.read = nn.Linear(3 * hidden_size + 5, _INNER)
        self.out = nn.Linear(_INNER, 1)

    def log_nats(self, seen: Foresight) -> Tensor:
        """Logarithm of the expected KL, [N] float32."""
        with torch.no_grad():
            hidden, opening = (x[..., : self.hidden_size] for x in (seen.states, seen.opening))
            log_probs = torch.log_softmax(seen.logits.float(), dim=-1)
            surest = log_probs.amax(-1)
            entropy = -(log_probs.exp() * log_probs.clamp_min(-1e4)).sum(-1)
            moved = (hidden - opening).float().pow(2).mean(-1).clamp_min(1e-12).log()
            scalars = [
                entropy,
                surest,
                moved,
                seen.depth.float().log(),
                seen.distance.float().abs().log1p(),
            ]
            vectors = [
                F.rms_norm(x.float(), (self.hidden_size,), eps=self.eps)
                for x in (hidden, opening, seen.revealed)
            ]
            features = torch.cat([*vectors, torch.stack(scalars, dim=-1)], dim=-1)
        inner = F.gelu(self.read(features.to(self.read.weight.dtype)))
        return self.out(inner)[..., 0].float().clamp(*_LOG_RANGE)

    def forward(self, seen: Foresight) -> Tensor:
        """Expected KL, [N] nats."""
        return self.log_nats(seen).exp()


def estimate_loss(log_nats: Tensor, true_nats: Tensor) -> Tensor:
    """Exponential deviance, elementwise: smallest where the estimate is the mean of the true values.

    log m + x / m is the negative log-likelihood of an exponential distribution
    with mean m. It suits values that are positive and spread over orders of
    magnitude. Above a bound on x / m the loss grows logarithmically, which bounds
    the gradient.
    """
    ratio = true_nats.detach() * torch.exp(-log_nats)
    beyond = _BOUND * (1 + torch.log(ratio.clamp_min(_BOUND) / _BOUND))
    return log_nats + torch.where(ratio <= _BOUND, ratio, beyond)
