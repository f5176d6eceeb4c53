"""Problems of our own in the format of HumanEval; the embedded teacher solves some of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from jointsampler.evaluation.human_eval import Problem


def _problem(number: int, prompt: str, name: str, solution: str, claim: str) -> Problem:
    test = f"def check(candidate):\n    assert {claim}\n"
    return Problem(f"ours/{number}", prompt, name, solution, test)


PROBLEMS = [
    _problem(0, "def is_empty(items):\n    return not ", "is_empty", "items\n", "candidate([]) is True"),
    _problem(1, "def first(items):\n    return items[", "first", "0]\n", "candidate([3, 4]) == 3"),
    _problem(
        2,
        'def total(a, b):\n    """Add a and b."""\n    return a',
        "total",
        " + b\n",
        "candidate(1, 2) == 3",
    ),
    _problem(3, "import os\n\n\ndef parent(path):\n    return os.path.", "parent", "dirname(path)\n", "candidate('a/b') == 'a'"),
]  # fmt: skip


def write(path: Path) -> Path:
    path.write_text("".join(json.dumps(asdict(problem)) + "\n" for problem in PROBLEMS))
    return path
