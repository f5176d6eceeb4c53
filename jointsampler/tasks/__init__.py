"""Procedurally generated prompted tasks, one file each.

A task knows how to write an example (prompt and one correct answer) from a
random stream, and how to check an answer. It knows nothing of tokenizers or
models. Stochastic tasks (shuffle, insert, remove, latin_square) have many
correct answers, uniformly likely in the examples: their answers have a joint
law that no product of marginals can follow.
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
