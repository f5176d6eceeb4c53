"""Diversity of samples: distinct-n and self-BLEU. A collapse shows in both while NLL falls.

Words are runs of letters and digits, and single other marks, whatever the teacher's
tokens are. Both scores depend on the number of texts, so compare sets of one size,
and compare with the sequential samples' value: the aim is that, not an extreme.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from .mauve import over_seeds
from .stats import Interval

DISTINCT = (1, 2, 4)  # the n of distinct-n
_ORDER = 4  # longest n-grams of self-BLEU
_NO_MATCH = 0.1  # matches of an n-gram order that has none (method 1 of Chen & Cherry 2014)

Gram = tuple[str, ...]


def diversity(groups: Sequence[Sequence[str]]) -> tuple[dict[int, Interval], Interval | None]:
    """(n -> distinct-n, self-BLEU) of texts, one group per generation seed.

    Values are means over the groups; their intervals use Student's t over them, as
    MAUVE's. Fewer than two texts have no self-BLEU.
    """
    words = [[re.findall(r"\w+|[^\w\s]", text) for text in group] for group in groups]
    distinct = {n: over_seeds([distinct_n(group, n) for group in words]) for n in DISTINCT}
    enough = all(len(group) > 1 for group in words)
    return distinct, over_seeds([float(self_bleu(g).mean()) for g in words]) if enough else None


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams / n-grams over all texts (Li et al. 2016, arXiv 1510.03055); 0 without any."""
    grams = Counter(gram for text in texts for gram in _grams(text, n))
    return len(grams) / max(1, grams.total())


def self_bleu(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """[N] float64: BLEU-4 of each text with all others as references (Zhu et al. 2018, arXiv 1802.01886).

    BLEU (Papineni et al. 2002): the geometric mean of clipped n-gram precisions,
    n = 1 ... 4, times the brevity penalty against the reference of the nearest
    length. A text shorter than 4 words uses the orders that it has; one without a
    word has 0.
    """
    lengths = [len(text) for text in texts]
    logs = np.zeros((len(texts), _ORDER))
    for n in range(1, _ORDER + 1):
        counts = [Counter(_grams(text, n)) for text in texts]
        # The largest count of a gram in any other text needs the two largest of all texts alone.
        largest: dict[Gram, list[tuple[int, int]]] = defaultdict(list)
        for index, grams in enumerate(counts):
            for gram, count in grams.items():
                largest[gram] = sorted([*largest[gram], (count, index)], reverse=True)[:2]
        for index, grams in enumerate(counts):
            matches = sum(
                min(count, max((c for c, i in largest[gram] if i != index), default=0))
                for gram, count in grams.items()
            )
            if total := grams.total():
                logs[index, n - 1] = np.log((matches or _NO_MATCH) / total)
    orders = np.clip(lengths, 1, _ORDER)
    scores = np.exp(logs.sum(1) / orders)
    return np.array([s * _brevity(lengths, i) for i, s in enumerate(scores)])


def _grams(text: Sequence[str], n: int) -> list[Gram]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def _brevity(lengths: Sequence[int], index: int) -> float:
    """The brevity penalty of a text; of two references equally near in length the shorter counts."""
    own = lengths[index]
    if own == 0:
        return 0.0
    others = [length for i, length in enumerate(lengths) if i != index]
    nearest = min(others, key=lambda length: (abs(length - own), length))
    return float(np.exp(min(0.0, 1 - nearest / own)))
