"""MAUVE (Pillutla et al. 2021, arXiv 2102.01454) between two sets of samples.

The features come from a judge, the score from mauve-text. The samples are
compared with sequential samples of the same teacher. The score of two
independent sequential sets, the ceiling, belongs beside every number: where a
method's interval overlaps it, MAUVE cannot tell the two apart.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from .stats import Interval


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Suppress the line that faiss writes per clustering about the small number of samples."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123, a device
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def mauve(
    reference: Sequence[np.ndarray], samples: Sequence[np.ndarray], kmeans_seeds: int = 5
) -> Interval:
    """The score of features [n, H] of both sides, one array per generation seed.

    Each generation seed's score is the mean over k-means seeds, because one
    k-means seed moves it by a few hundredths at a few hundred samples. The value
    is the mean over generation seeds; its 95 % interval uses Student's t over
    them, cut to [0, 1]. One generation seed gives no interval. The number of
    clusters is n / 10 (at least 2), the same for every score of one n.
    """
    scores = [
        np.mean([_score(p, q, seed) for seed in range(kmeans_seeds)])
        for p, q in zip(reference, samples, strict=True)
    ]
    return over_seeds(scores)


def over_seeds(scores: Sequence[float]) -> Interval:
    """Mean of one score per generation seed, with its t interval within [0, 1]."""
    from scipy.stats import t  # slow to import

    g, mean = len(scores), float(np.mean(scores))
    if g < 2:
        return Interval(value=mean, n=g)
    half = float(t.ppf(0.975, g - 1) * np.std(scores, ddof=1) / np.sqrt(g))
    return Interval(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), n=g)


def _score(p: np.ndarray, q: np.ndarray, seed: int) -> float:
    from mauve import compute_mauve  # imports faiss and scikit-learn, which takes seconds

    n = min(len(p), len(q))
    with _quiet_stderr():
        result = compute_mauve(
            p_features=p[:n],
            q_features=q[:n],
            num_buckets=max(2, round(n / 10)),
            seed=seed,
            verbose=False,
        )
    return float(result.mauve)
