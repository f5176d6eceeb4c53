"""MAUVE (Pillutla et al. 2021, arXiv 2102.01454) between two sets of samples.

Features come from a judge; the score from mauve-text. One score is the mean
over generation seeds and k-means seeds, because the k-means seed alone moves it
by a few hundredths at a few hundred samples. Samples are compared with one-token-
at-a-time samples of the same teacher, and the score of two such sets against
each other (the ceiling) belongs beside every number.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class MauveScore:
    value: float  # mean over replicates
    sd: float  # over replicates
    low: float  # value - 2 sd
    high: float  # value + 2 sd, at most 1
    n: int  # samples a side, per replicate
    replicates: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """faiss writes a line per clustering about the bucket count, which is chosen on purpose."""
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
) -> MauveScore:
    """Features [n, H] of both sides, one array per generation seed, to one score.

    The number of buckets is n / 10 (at least 2), the same for every score of one n.
    """
    from mauve import compute_mauve  # imports faiss and scikit-learn: seconds

    values = []
    for p, q in zip(reference, samples, strict=True):
        n = min(len(p), len(q))
        for seed in range(kmeans_seeds):
            with _quiet_stderr():
                result = compute_mauve(
                    p_features=p[:n],
                    q_features=q[:n],
                    num_buckets=max(2, round(n / 10)),
                    seed=seed,
                    verbose=False,
                )
            values.append(float(result.mauve))
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    return MauveScore(mean, sd, mean - 2 * sd, min(1.0, mean + 2 * sd), n, len(values))
