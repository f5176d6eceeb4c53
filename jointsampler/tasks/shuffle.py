"""Shuffle a list: any permutation is correct, all equally likely.

Revealed all at once, n items carry n ln n - ln n! nats of dependency.
"""

from __future__ import annotations

import itertools
import random

from ._task import Answers, Example, answer_of, draw_items, fields_of, in_words, prompt_of


class Shuffle:
    name = "shuffle"

    def example(self, rng: random.Random) -> Example:
        items = draw_items(rng)
        return Example(prompt_of(self.name, items), answer_of(rng.sample(items, len(items))))

    def check(self, prompt: str, text: str) -> bool:
        return sorted(text.split()) == sorted(fields_of(prompt)[0])

    def answers(self, prompt: str) -> Answers:
        (items,) = fields_of(prompt)
        return in_words(items, list(itertools.permutations(items)))
