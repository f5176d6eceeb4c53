"""Procedurally generated prompted tasks, one file each.

A task writes examples (a prompt and one correct answer) from a random stream
and checks answers; tokenizers and models are not involved. Stochastic tasks
(shuffle, insert, remove, latin_square) have many correct answers, all equally
likely in the examples, so the tokens of an answer depend on each other and no
product of marginals equals their joint distribution.
"""

from __future__ import annotations

from ..errors import unknown_name
from ._task import UNSEEN, Example, Task, examples
from .arithmetic import Arithmetic
from .copy import Copy
from .insert import Insert
from .latin_square import LatinSquare
from .remove import Remove
from .replace import Replace
from .reverse import Reverse
from .shuffle import Shuffle
from .sort import Sort

TASKS: dict[str, Task] = {
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


def get_task(name: str) -> Task:
    """The task called ``name``; UserError with the nearest name otherwise."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


__all__ = ["TASKS", "UNSEEN", "Example", "Task", "examples", "get_task"]
