"""Generative NLL: nats per token of samples under a causal judge.

Low means fluent. A value below that of sequential samples is not better,
because repetition is fluent too: compare with the sequential samples' value.
"""

from __future__ import annotations

import numpy as np

from .judges import Scores
from .stats import Interval, bootstrap


def generative_nll(scores: Scores) -> Interval:
    """Total nats over total judge tokens, bootstrapped over texts; an empty text has no weight."""
    units = np.stack([scores.nll, scores.tokens.astype(float)], axis=1)
    return bootstrap(lambda mean: mean[..., 0] / np.maximum(mean[..., 1], 1e-9), units)
