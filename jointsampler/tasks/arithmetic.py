"""Add two two-digit numbers with the working written out: one correct answer."""

from __future__ import annotations

import random

from ._task import Answers, Example


def working(a: int, b: int) -> str:
    units = a % 10 + b % 10
    carry = units // 10
    tens = a // 10 + b // 10 + carry
    return f" {a % 10} + {b % 10} = {units}, {a // 10} + {b // 10} + {carry} = {tens}, sum {a + b}"


def _terms(prompt: str) -> tuple[int, int]:
    a, b = prompt.split(":")[1].rsplit("->", 1)[0].split("+")
    return int(a), int(b)


class Arithmetic:
    name = "arithmetic"

    def example(self, rng: random.Random) -> Example:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        return Example(f"add: {a} + {b} ->", working(a, b))

    def check(self, prompt: str, text: str) -> bool:
        return text.strip() == working(*_terms(prompt)).strip()

    def answers(self, prompt: str) -> Answers:
        return Answers([tuple(c for c in working(*_terms(prompt)) if c.isdigit())], 10)
