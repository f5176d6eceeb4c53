"""Chi-square comparison of sampled words with an exact law."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from scipy import stats

from jointsampler.decoding.generate import Generation
from jointsampler.decoding.orders.entropy import entropy
from jointsampler.decoding.sampling import Sampling, probabilities


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


def sequential_law(teacher, temperature: float, top_p: float) -> dict[tuple[int, ...], float]:
    """The exact law of sequential decoding in entropy order, enumerated by walking its tree."""
    law: dict[tuple[int, ...], float] = {}

    def walk(word: list[int], mass: float) -> None:
        masked = [i for i, s in enumerate(word) if s == teacher.mask_id]
        if not masked:
            law[tuple(word)] = law.get(tuple(word), 0) + mass
            return
        logits = teacher.logits(teacher.hidden(torch.tensor([word])))[0]
        position = masked[int(entropy(logits[masked]).argmin())]
        drawn = probabilities(logits[position], Sampling(temperature, top_p))
        for symbol, p in enumerate(drawn.tolist()):
            if p > 0:
                walk([*word[:position], symbol, *word[position + 1 :]], mass * p)

    walk([teacher.mask_id] * teacher.words.shape[1], 1.0)
    return law
