"""The metric of the harness's code tasks, with every program in our sandbox.

``humaneval``, ``mbpp`` and their variants ask the package ``evaluate`` for its metric
``code_eval``, which comes from a hub and runs what a model wrote with no bound but a
time limit. :func:`install` answers for that one name; all other metrics are evaluate's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate

from ..evaluation.human_eval import pass_at_k
from ..sandbox import run_programs

NAME = "code_eval"


class CodeEval:
    """Fraction of problems solved by one of k samples (arXiv 2107.03374, equation 1)."""

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """({"pass@k": mean over problems}, the outcomes of each problem's samples).

        ``references`` are tests, one text a problem; ``predictions`` the programs that
        precede them. A k above the smallest number of samples is left out.
        """
        programs = [
            f"{program}\n{test}"
            for test, samples in zip(references, predictions, strict=True)
            for program in samples
        ]
        found = iter(run_programs(programs))
        outcomes = {
            i: [(j, _as_row(next(found))) for j, _ in enumerate(samples)]
            for i, samples in enumerate(predictions)
        }
        right = [[row["passed"] for _, row in rows] for rows in outcomes.values()]
        smallest = min(map(len, right))
        passed = {
            f"pass@{tries}": sum(pass_at_k(each, tries) for each in right) / len(right)
            for tries in k
            if tries <= smallest
        }
        return passed, outcomes


def _as_row(outcome: Any) -> dict[str, Any]:
    return {"passed": outcome.passed, "result": outcome.reason}


def install() -> None:
    """Make ``evaluate.load("code_eval")`` return :class:`CodeEval`."""
    load = evaluate.load
    if getattr(load, "of_jointsampler", False):
        return

    def loads_ours(path: str, *args: Any, **given: Any) -> Any:
        return CodeEval() if path == NAME else load(path, *args, **given)

    loads_ours.of_jointsampler = True
    evaluate.load = loads_ours
