"""Insert a new name into a list: any place is correct, the others keep their order."""

from __future__ import annotations

import random

from ._task import NAMES, Answers, Example, answer_of, draw_items, fields_of, in_words, prompt_of


class Insert:
    name = "insert"

    def example(self, rng: random.Random) -> Example:
        items = draw_items(rng, high=5)
        new = rng.choice([name for name in NAMES if name not in items])
        at = rng.randint(0, len(items))
        return Example(prompt_of(self.name, items, new), answer_of([*items[:at], new, *items[at:]]))

    def check(self, prompt: str, text: str) -> bool:
        items, (new,) = fields_of(prompt)
        answer = text.split()
        return answer.count(new) == 1 and [a for a in answer if a != new] == items

    def answers(self, prompt: str) -> Answers:
        items, (new,) = fields_of(prompt)
        places = range(len(items) + 1)
        return in_words([*items, new], [[*items[:i], new, *items[i:]] for i in places])
