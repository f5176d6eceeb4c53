"""Generative NLL: nats per token of samples under a causal judge.

Low means fluent. A value below that of sequential samples is not better,
because repetition is fluent too: compare with the sequential samples' value.
"""

from __future__ import annotations

import numpy as np

from .differences import as_units, ratio
from .judges import Scores
from .measured import Units
from .stats import Interval, bootstrap


def nll_units(scores: Scores) -> Units:
    """Nats and judge tokens of each text."""
    return as_units(_columns(scores))


def generative_nll(scores: Scores) -> Interval:
    """Total nats over total judge tokens, bootstrapped over texts; an empty text has no weight."""
    return bootstrap(ratio, _columns(scores))


def _columns(scores: Scores) -> np.ndarray:
    return np.stack([scores.nll, scores.tokens.astype(float)], axis=1)
