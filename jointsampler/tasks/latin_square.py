"""Write a 4 x 4 latin square: 576 correct answers, uniformly likely.

The prompt is always the same, so the answer is a sample from one joint distribution.
"""

from __future__ import annotations

import itertools
import random

from ._task import Answers, Example

_ROWS = list(itertools.permutations("1234"))
SQUARES = [
    square
    for square in itertools.product(_ROWS, repeat=4)
    if all(len(set(column)) == 4 for column in zip(*square, strict=True))
]


class LatinSquare:
    name = "latin_square"

    def example(self, rng: random.Random) -> Example:
        square = rng.choice(SQUARES)
        rows = ["".join(row) for row in square]
        return Example("latin square ->", " " + " ".join(rows))

    def check(self, prompt: str, text: str) -> bool:
        return tuple(tuple(row) for row in text.split()) in set(SQUARES)

    def answers(self, prompt: str) -> Answers:
        return Answers([tuple(itertools.chain(*square)) for square in SQUARES], 4)
