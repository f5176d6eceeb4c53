"""Remove any one name from a list; the others keep their order."""

from __future__ import annotations

import random

from ._task import Answers, Example, answer_of, draw_items, fields_of, in_words, prompt_of


class Remove:
    name = "remove"

    def example(self, rng: random.Random) -> Example:
        items = draw_items(rng)
        gone = rng.randrange(len(items))
        return Example(prompt_of(self.name, items), answer_of(items[:gone] + items[gone + 1 :]))

    def check(self, prompt: str, text: str) -> bool:
        items = fields_of(prompt)[0]
        answer = text.split()
        return any(answer == items[:i] + items[i + 1 :] for i in range(len(items)))

    def answers(self, prompt: str) -> Answers:
        (items,) = fields_of(prompt)
        places = range(len(items))
        return in_words(items, [items[:i] + items[i + 1 :] for i in places])
