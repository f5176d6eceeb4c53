"""The protocol of a task, and the vocabulary and prompt format that the list tasks share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

# Short lower-case names, so that a small byte-level BPE can make each one token.
_NAMES = """
    ann bob cid dan eve fay gus hal ida jim kay leo mia ned oli pam
    ray sue tom uma vic wes xia yan zoe ava ben cat dov eli flo gil
"""
NAMES = _NAMES.split()


class Example(NamedTuple):
    prompt: str
    answer: str


class Answers(NamedTuple):
    """All correct answers to a prompt, equally likely in the examples."""

    choices: Sequence[tuple[str, ...]]  # each answer as the symbols at its free places
    alphabet: int  # how many symbols a place could hold


class Task(Protocol):
    name: str

    def example(self, rng: random.Random) -> Example:
        """One prompt with one answer drawn uniformly from its correct answers."""

    def check(self, prompt: str, text: str) -> bool:
        """Whether ``text``, the continuation of ``prompt``, is a correct answer."""

    def answers(self, prompt: str) -> Answers | None:
        """The correct answers, each of the same length; None where they cannot be listed.

        ``closed_forms.py`` has what follows from them.
        """


# Added to the seed of prompts for measurements. Corpora and teachers learn from prompts of small
# seeds, so these prompts are new to them.
UNSEEN = 10_000


def examples(task: Task, seed: int, n: int) -> list[Example]:
    """``n`` examples; example i depends on (seed, task, i) only."""
    return [task.example(random.Random(f"{seed}/{task.name}/{i}")) for i in range(n)]


def draw_items(rng: random.Random, low: int = 3, high: int = 6) -> list[str]:
    """Between ``low`` and ``high`` distinct names in random order."""
    return rng.sample(NAMES, rng.randint(low, high))


def prompt_of(name: str, *fields: list[str] | str) -> str:
    """``name: a b c | d ->``, the prompt format of all list tasks."""
    parts = [f if isinstance(f, str) else " ".join(f) for f in fields]
    return f"{name}: {' | '.join(parts)} ->"


def fields_of(prompt: str) -> list[list[str]]:
    """The inverse of :func:`prompt_of`, each field split into items."""
    body = prompt.split(":", 1)[1].rsplit("->", 1)[0]
    return [field.split() for field in body.split("|")]


def answer_of(items: list[str]) -> str:
    return " " + " ".join(items)


def in_words(words: Sequence[str], choices: Sequence[Sequence[str]]) -> Answers:
    """Answers whose places are words, each of which could be any of ``words``."""
    return Answers([tuple(choice) for choice in choices], len(set(words)))
