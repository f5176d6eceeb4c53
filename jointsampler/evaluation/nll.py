"""Generative NLL: nats per token of samples under a causal judge.

Low is fluent, and lower than the reference's is not better: a sampler that
repeats itself is fluent too. Compare with the k = 1 samples' own number.
"""

from __future__ import annotations

import numpy as np

from .judges import Scores
from .stats import Estimate, bootstrap


def generative_nll(scores: Scores) -> Estimate:
    """Total nats over total judge tokens, with an interval over texts; empty texts carry no weight."""
    units = np.stack([scores.nll, scores.tokens.astype(float)], axis=1)
    return bootstrap(lambda mean: mean[..., 0] / np.maximum(mean[..., 1], 1e-9), units)
