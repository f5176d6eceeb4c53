"""From logits to a token: temperature, top-p, and an inverse-CDF draw.

The caller provides the uniform number (``rng.py``), so the same number and the
same probabilities always give the same token. Which position is drawn is left to
the order policy, which reads the logits before temperature and top-p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError

_PREFIX = 256  # tokens of a top-p set found without a sort of the vocabulary


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature must be 0 (greedy) or positive, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], not {self.top_p}.")


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """[..., V] float32 untempered logits -> [..., V] float32 probabilities to draw from."""
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    probs = torch.softmax(logits, dim=-1)
    if sampling.top_p == 1:
        return probs
    return _nucleus(probs, sampling.top_p)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The smallest set of likeliest tokens whose mass reaches top_p (Holtzman et al. 2020).

    probs and result: [..., V], which sum to 1. Of equally likely tokens at the edge those
    with the lowest ids are kept. A sort of V numbers costs fifty times the softmax that
    made them, so a prefix is sorted alone wherever it holds the set.
    """
    if probs.shape[-1] > 4 * _PREFIX:
        ordered, index = _prefix(probs)
        before = ordered.cumsum(-1) - ordered
        # The set ends before the prefix does, and not among equals that the prefix may cut.
        last = torch.where(before < top_p, ordered, 1.0).amin(-1)
        if bool(((before[..., -1] >= top_p) & (ordered[..., -1] < last)).all()):
            return _kept(probs, ordered, index, top_p)
    return _kept(probs, *probs.sort(dim=-1, descending=True, stable=True), top_p)


def _prefix(probs: Tensor) -> tuple[Tensor, Tensor]:
    """The _PREFIX largest of [..., V] and their ids, as a stable sort has them first."""
    index = probs.topk(_PREFIX, dim=-1).indices.sort(dim=-1).values
    ordered, place = probs.gather(-1, index).sort(dim=-1, descending=True, stable=True)
    return ordered, index.gather(-1, place)


def _kept(probs: Tensor, ordered: Tensor, index: Tensor, top_p: float) -> Tensor:
    """[..., V]: those of ``ordered``, which stand at ``index``, up to the mass top_p; normalised."""
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    kept = torch.zeros_like(probs).scatter(-1, index, kept)
    return kept / kept.sum(-1, keepdim=True)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [...] int64 from probs [..., V] by inverting their CDF at ``uniform`` [...] float64."""
    cumulative = probs.double().cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]
    token = torch.searchsorted(cumulative, target, right=True)[..., 0]
    return token.clamp_max(probs.shape[-1] - 1)
