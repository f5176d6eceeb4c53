"""Procedurally generated prompted tasks, one file each.

A task writes examples (a prompt and one correct answer) from a random stream
and checks answers; tokenizers and models are not involved. Stochastic tasks
(shuffle, insert, remove, latin_square, sudoku, expression) have many correct answers,
all equally likely in the examples, so the tokens of an answer depend on each other and
no product of marginals equals their joint distribution. ``closed_forms.py`` computes
the chance level of a prompt and the accuracy of independent unmasking.
"""

from __future__ import annotations

from ..errors import unknown_name
from ._task import UNSEEN, Answers, Example, Task, examples
from .arithmetic import Arithmetic
from .closed_forms import chance, independent, total_correlation
from .copy import Copy
from .expression import Expression
from .function import Function
from .insert import Insert
from .latin_square import LatinSquare
from .remove import Remove
from .replace import Replace
from .reverse import Reverse
from .shuffle import Shuffle
from .sort import Sort
from .sudoku import Sudoku

# What the recipe of the embedded teacher trains on. Its data, its card and the built-in prompts of a
# corpus follow from this list, so a new task goes below it.
TAUGHT: dict[str, Task] = {
    task.name: task
    for task in (
        Copy(),
        Reverse(),
        Sort(),
        Shuffle(),
        Insert(),
        Remove(),
        Replace(),
        LatinSquare(),
        Arithmetic(),
    )
}
TASKS: dict[str, Task] = TAUGHT | {task.name: task for task in (Sudoku(), Expression(), Function())}


def get_task(name: str) -> Task:
    """The task called ``name``; UserError with the nearest name otherwise."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


__all__ = [
    "TASKS",
    "TAUGHT",
    "UNSEEN",
    "Answers",
    "Example",
    "Task",
    "chance",
    "examples",
    "get_task",
    "independent",
    "total_correlation",
]
