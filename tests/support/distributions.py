"""Chi-square comparison of samples with an exact distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from scipy import stats

from jointsampler.decoding.generate import Generation
from jointsampler.decoding.orders.entropy import entropy
from jointsampler.decoding.sampling import Sampling, probabilities

Word = tuple[int, ...]


def words(out: Generation) -> Counter:
    return Counter(map(tuple, out.responses.tolist()))


def up_to_end(word: Word, end_id: int) -> Word:
    """The word without what follows its first end token."""
    return word[: word.index(end_id) + 1] if end_id in word else word


def words_with_orders(out: Generation) -> Counter:
    """Counts of (word, the positions in the order of their reveals)."""
    orders = map(tuple, out.order.tolist())
    return Counter(zip(map(tuple, out.responses.tolist()), orders, strict=True))


def p_value(observed: Counter, exact: Mapping[Hashable, float]) -> float:
    """p of a chi-square test; outcomes expected fewer than 5 times are pooled, as the test requires.

    An outcome outside the exact distribution's support has p = 0.
    """
    if set(observed) - set(exact):
        return 0.0
    outcomes = sorted(exact)
    seen = np.array([observed[outcome] for outcome in outcomes], dtype=float)
    expected = np.array([exact[outcome] for outcome in outcomes]) * seen.sum()
    rare = expected < 5
    seen = np.append(seen[~rare], seen[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        seen, expected = seen[:-1], expected[:-1]
    return float(stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue)


def sequential_distribution(
    teacher, temperature: float = 1.0, top_p: float = 1.0, block_length: int | None = None
) -> dict[tuple[Word, Word], float]:
    """{(word, order): probability} of sequential decoding in entropy order, by walking its tree."""
    length = block_length or teacher.length
    exact: dict[tuple[Word, Word], float] = {}

    def walk(word: list[int], order: Word, mass: float) -> None:
        masked = [i for i, s in enumerate(word) if s == teacher.mask_id]
        if not masked:
            exact[tuple(word), order] = mass
            return
        masked = [i for i in masked if i // length == masked[0] // length]  # the open block
        logits = teacher.logits(teacher.hidden(torch.tensor([word])))[0]
        position = masked[int(entropy(logits[masked]).argmin())]
        drawn = probabilities(logits[position], Sampling(temperature, top_p))
        for symbol, p in enumerate(drawn.tolist()):
            if p > 0:
                filled = [*word[:position], symbol, *word[position + 1 :]]
                walk(filled, (*order, position), mass * p)

    walk([teacher.mask_id] * teacher.length, (), 1.0)
    return exact


def of_words(exact: Mapping[tuple[Word, Word], float]) -> dict[Word, float]:
    """The same without the orders."""
    found: Counter = Counter()
    for (word, _), mass in exact.items():
        found[word] += mass
    return dict(found)
