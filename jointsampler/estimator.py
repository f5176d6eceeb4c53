"""The sampler's estimate of its own error: the KL that revealing one more position would add.

A small head beside the joint sampler, trained on the true KL(teacher || sampler)
that distillation computes anyway. It reads and never steers: no gradient leaves
it. What is done with the estimate is ``decoding/stops/adaptive.py``'s business.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INNER = 64
_BOUND = 20.0  # of x / m in the loss
_LOG_RANGE = (-14.0, 5.0)  # of the estimate: from what rounding leaves to more than any KL seen


class KLEstimator(nn.Module):
    """[N, H] hidden states of one position, before and after the sampler's passes -> [N] nats."""

    def __init__(self, hidden_size: int, norm_eps: float):
        super().__init__()
        # No weights of its own: scale is the next layer's to learn.
        self.eps = norm_eps
        self.read = nn.Linear(2 * hidden_size + 4, _INNER)
        self.out = nn.Linear(_INNER, 1)

    def log_nats(self, hidden: Tensor, opening: Tensor, logits: Tensor, depth: int) -> Tensor:
        """Logarithm of the expected KL, float32.

        hidden and opening: [N, H], the sampler's states and the teacher's that
        opened the block; logits: [N, V], the sampler's; depth: reveals of the
        block so far, at least 1.
        """
        with torch.no_grad():
            sizes = (hidden.shape[-1],)
            log_law = torch.log_softmax(logits.float(), dim=-1)
            surest = log_law.amax(-1)
            entropy = -(log_law.exp() * log_law.clamp_min(-1e4)).sum(-1)
            moved = (hidden - opening).float().pow(2).mean(-1).clamp_min(1e-12).log()
            scalars = [entropy, surest, moved, torch.full_like(entropy, float(depth)).log()]
            features = torch.cat(
                [
                    F.rms_norm(hidden.float(), sizes, eps=self.eps),
                    F.rms_norm(opening.float(), sizes, eps=self.eps),
                    torch.stack(scalars, dim=-1),
                ],
                dim=-1,
            )
        inner = F.gelu(self.read(features.to(self.read.weight.dtype)))
        return self.out(inner)[..., 0].float().clamp(*_LOG_RANGE)

    def forward(self, hidden: Tensor, opening: Tensor, logits: Tensor, depth: int) -> Tensor:
        """Expected KL in nats; see :meth:`log_nats`."""
        return self.log_nats(hidden, opening, logits, depth).exp()


def estimate_loss(log_nats: Tensor, true_nats: Tensor) -> Tensor:
    """Exponential deviance, elementwise: least where the estimate is the mean of the true values.

    log m + x / m, the negative log-likelihood of an exponential law of mean m:
    right for what is positive and spread over orders of magnitude. Where x / m
    passes a bound it goes on logarithmically, so that no gradient passes it.
    """
    ratio = true_nats.detach() * torch.exp(-log_nats)
    beyond = _BOUND * (1 + torch.log(ratio.clamp_min(_BOUND) / _BOUND))
    return log_nats + torch.where(ratio <= _BOUND, ratio, beyond)
