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


def nll_units(scores: Scores, prompts: np.ndarray | None = None) -> Units:
    """Nats and judge tokens of each text, or of each prompt's texts; ``prompts`` as below."""
    return as_units(_columns(scores, prompts))


def generative_nll(scores: Scores, prompts: np.ndarray | None = None) -> Interval:
    """Total nats over total judge tokens, bootstrapped over texts; an empty text has no weight.

    ``prompts`` [n] int64: the number of each text's prompt, 0, 1, ... Texts of one prompt
    are alike, so the bootstrap is over prompts then.
    """
    return bootstrap(ratio, _columns(scores, prompts))


def _columns(scores: Scores, prompts: np.ndarray | None) -> np.ndarray:
    columns = np.stack([scores.nll, scores.tokens.astype(float)], axis=1)
    if prompts is None:
        return columns
    return np.stack([np.bincount(prompts, weights=column) for column in columns.T], axis=1)
