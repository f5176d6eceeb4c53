"""Chi-square comparison of sampled words with an exact law."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import stats

from jointsampler.decoding.generate import Generation


def counts(out: Generation) -> Counter:
    return Counter(map(tuple, out.responses.tolist()))


def p_value(observed: Counter, law: dict[tuple[int, ...], float], n: int) -> float:
    """p of a chi-square test; words expected fewer than 5 times are pooled, as the test wants.

    A word outside the law's support has p = 0.
    """
    if set(observed) - set(law):
        return 0.0
    words = sorted(law)
    seen = np.array([observed[word] for word in words], dtype=float)
    expected = np.array([law[word] for word in words]) * n
    rare = expected < 5
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        seen, expected = seen[:-1], expected[:-1]
    return float(stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue)
