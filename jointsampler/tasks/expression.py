"""Arrange names, operators and one pair of brackets so that Python parses them: many correct answers.

Brackets must close, and operators stand where Python allows them, so the places of an
answer depend on each other. Nothing is executed.
"""

from __future__ import annotations

import ast
import functools
import itertools
import random

from ._task import NAMES, Answers, Example, answer_of, fields_of, in_words, prompt_of

_OPERATORS = "+-*/"


def _parses(symbols: tuple[str, ...] | list[str]) -> bool:
    try:
        ast.parse(" ".join(symbols), mode="eval")
    except SyntaxError:
        return False
    return True


@functools.cache
def _arrangements(symbols: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every distinct order of ``symbols`` that parses, in a fixed order."""
    return [order for order in sorted(set(itertools.permutations(symbols))) if _parses(order)]


def _correct(symbols: list[str]) -> list[tuple[str, ...]]:
    """The same; which names they are does not matter, so few cases are ever parsed."""
    names = sorted(symbol for symbol in symbols if symbol.isalpha())
    plain = dict(zip("abcdefg", names, strict=False))
    others = sorted(symbol for symbol in symbols if not symbol.isalpha())
    found = _arrangements((*sorted(plain), *others))
    return [tuple(plain.get(symbol, symbol) for symbol in order) for order in found]


class Expression:
    name = "expression"

    def example(self, rng: random.Random) -> Example:
        symbols = [*rng.sample(NAMES, 3), *rng.choices(_OPERATORS, k=2), "(", ")"]
        rng.shuffle(symbols)
        return Example(
            prompt_of(self.name, symbols), answer_of(list(rng.choice(_correct(symbols))))
        )

    def check(self, prompt: str, text: str) -> bool:
        symbols = text.split()
        return sorted(symbols) == sorted(fields_of(prompt)[0]) and _parses(symbols)

    def answers(self, prompt: str) -> Answers:
        (symbols,) = fields_of(prompt)
        return in_words(symbols, _correct(symbols))
