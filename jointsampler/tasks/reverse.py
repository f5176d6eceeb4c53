"""Reverse a list: one correct answer."""

from __future__ import annotations

import random

from ._task import Answers, Example, answer_of, draw_items, fields_of, in_words, prompt_of


class Reverse:
    name = "reverse"

    def example(self, rng: random.Random) -> Example:
        items = draw_items(rng)
        return Example(prompt_of(self.name, items), answer_of(items[::-1]))

    def check(self, prompt: str, text: str) -> bool:
        return text.split() == fields_of(prompt)[0][::-1]

    def answers(self, prompt: str) -> Answers:
        (items,) = fields_of(prompt)
        return in_words(items, [items[::-1]])
