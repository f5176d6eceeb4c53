"""Complete a 4 x 4 sudoku: rows, columns and 2 x 2 boxes hold 1 to 4 once each.

There are 288 grids. A puzzle shows some cells of one; with few cells shown it has
several solutions, each of which is correct and equally likely.
"""

from __future__ import annotations

import itertools
import random

from ._task import Answers, Example
from .latin_square import SQUARES

_BOXES = [
    [(row + i, column + j) for i in (0, 1) for j in (0, 1)] for row in (0, 2) for column in (0, 2)
]
GRIDS = [
    tuple(itertools.chain(*square))  # 16 digits, row by row
    for square in SQUARES
    if all(len({square[row][column] for row, column in box}) == 4 for box in _BOXES)
]
_HIDDEN = "_"


def _written(cells: tuple[str, ...] | list[str]) -> str:
    return " ".join("".join(cells[row : row + 4]) for row in range(0, 16, 4))


def _puzzle(prompt: str) -> list[str]:
    """The 16 cells that a prompt shows or hides."""
    return list(prompt.split(":", 1)[1].rsplit("->", 1)[0].replace(" ", ""))


def _solutions(puzzle: list[str]) -> list[tuple[str, ...]]:
    shown = [(i, cell) for i, cell in enumerate(puzzle) if cell != _HIDDEN]
    return [grid for grid in GRIDS if all(grid[i] == cell for i, cell in shown)]


class Sudoku:
    name = "sudoku"

    def example(self, rng: random.Random) -> Example:
        grid = rng.choice(GRIDS)
        shown = set(rng.sample(range(16), rng.randint(4, 9)))
        puzzle = [cell if i in shown else _HIDDEN for i, cell in enumerate(grid)]
        return Example(f"sudoku: {_written(puzzle)} ->", f" {_written(grid)}")

    def check(self, prompt: str, text: str) -> bool:
        return text.split() in [_written(grid).split() for grid in _solutions(_puzzle(prompt))]

    def answers(self, prompt: str) -> Answers:
        """The digits of the hidden cells."""
        puzzle = _puzzle(prompt)
        hidden = [i for i, cell in enumerate(puzzle) if cell == _HIDDEN]
        return Answers([tuple(grid[i] for i in hidden) for grid in _solutions(puzzle)], 4)
