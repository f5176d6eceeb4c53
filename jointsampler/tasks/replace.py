"""Replace one item of a list by another name: one correct answer."""

from __future__ import annotations

import random

from ._task import NAMES, Answers, Example, answer_of, draw_items, fields_of, in_words, prompt_of


class Replace:
    name = "replace"

    def example(self, rng: random.Random) -> Example:
        items = draw_items(rng)
        old = rng.choice(items)
        new = rng.choice([name for name in NAMES if name not in items])
        answer = [new if item == old else item for item in items]
        return Example(prompt_of(self.name, items, [old, new]), answer_of(answer))

    def check(self, prompt: str, text: str) -> bool:
        items, (old, new) = fields_of(prompt)
        return text.split() == [new if item == old else item for item in items]

    def answers(self, prompt: str) -> Answers:
        items, (old, new) = fields_of(prompt)
        answer = [new if item == old else item for item in items]
        return in_words([*items, new], [answer])
