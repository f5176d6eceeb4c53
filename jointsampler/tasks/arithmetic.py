"""Add two two-digit numbers with the working written out: one correct answer."""

from __future__ import annotations

import random

from ._task import Example


def working(a: int, b: int) -> str:
    units = a % 10 + b % 10
    carry = units // 10
    tens = a // 10 + b // 10 + carry
    return f" {a % 10} + {b % 10} = {units}, {a // 10} + {b // 10} + {carry} = {tens}, sum {a + b}"


class Arithmetic:
    name = "arithmetic"

    def example(self, rng: random.Random) -> Example:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        return Example(f"add: {a} + {b} ->", working(a, b))

    def check(self, prompt: str, text: str) -> bool:
        a, b = (int(x) for x in prompt.split(":")[1].rsplit("->", 1)[0].split("+"))
        return text.strip() == working(a, b).strip()
