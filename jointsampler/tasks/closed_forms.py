"""What follows from the list of a prompt's correct answers, without a model.

A teacher that is perfect gives every correct answer the same probability 1/N. Its
marginals at the free places are counts over the answers, and independent unmasking
draws each place from its own marginal.
"""

from __future__ import annotations

import math
from collections import Counter

from ._task import Answers


def chance(answers: Answers) -> float:
    """Accuracy of drawing every place uniformly from the symbols it could hold."""
    return len(answers.choices) / answers.alphabet ** len(answers.choices[0])


def independent(answers: Answers) -> float:
    """Accuracy of a perfect teacher that reveals all places at once, independently.

    For a shuffle of n items it is n! / n^n.
    """
    marginals = _marginals(answers)
    return sum(
        math.prod(p[symbol] for p, symbol in zip(marginals, choice, strict=True))
        for choice in answers.choices
    )


def total_correlation(answers: Answers) -> float:
    """Nats of dependency between the places: the sum of the marginals' entropies less ln N.

    For a shuffle of n items it is n ln n - ln n!.
    """
    entropies = (-sum(q * math.log(q) for q in p.values()) for p in _marginals(answers))
    return math.fsum(entropies) - math.log(len(answers.choices))


def _marginals(answers: Answers) -> list[dict[str, float]]:
    """The distribution of the symbol at each place."""
    count = len(answers.choices)
    return [
        {symbol: n / count for symbol, n in Counter(column).items()}
        for column in zip(*answers.choices, strict=True)
    ]
