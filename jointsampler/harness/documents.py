"""Our tasks and HumanEval as documents of the harness; the files in ``tasks/`` name these functions.

Examples and their checks are those of ``jointsampler/tasks``; problems and programs
those of ``jointsampler/evaluation/human_eval.py``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from datasets import Dataset

from ..errors import UserError
from ..evaluation.human_eval import Problem, pass_at_k, read_problems, solved
from ..tasks import UNSEEN, chance, examples, get_task, independent

TRIES = (1, 10, 100)  # the k of pass@k that are reported


def list_documents(
    name_of_task: str, documents: int = 100, first_seed: int = UNSEEN, **_: Any
) -> dict[str, Dataset]:
    """{"test": ``documents`` examples of a task}; document i is the task's example i.

    The harness also passes the model's arguments, which are ignored.
    """
    found = examples(get_task(name_of_task), first_seed, documents)
    rows = [{"task": name_of_task, "prompt": e.prompt, "answer": e.answer} for e in found]
    return {"test": Dataset.from_list(rows)}


def accuracy(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Whether the response is one of the document's correct answers, and the closed forms beside it."""
    task = get_task(doc["task"])
    answers = task.answers(doc["prompt"])
    beside = {"chance": chance(answers), "independent": independent(answers)} if answers else {}
    return {"acc": float(task.check(doc["prompt"], results[0]))} | beside


def human_eval_documents(
    data: str | None = None, prompt_characters: int | None = None, **_: Any
) -> dict[str, Dataset]:
    """{"test": the problems of ``data``, or of the package ``human-eval``}.

    With ``prompt_characters``, those alone whose prompt is at most that long: a small
    teacher's context holds no more.
    """
    problems = read_problems(data)
    if prompt_characters is not None:
        problems = [p for p in problems if len(p.prompt) <= prompt_characters]
        if not problems:
            raise UserError(f"No problem has a prompt of at most {prompt_characters} characters.")
    return {"test": Dataset.from_list([asdict(problem) for problem in problems])}


def passes(doc: dict[str, str], results: list[list[str]]) -> dict[str, float]:
    """{"pass@k": ...} of one problem, for each k of ``TRIES`` up to the number of its samples.

    ``results``: one list, the completions of the document, cut by the task's stop strings.
    """
    (completions,) = results
    right = solved([Problem(**doc)] * len(completions), completions)
    return {f"pass@{k}": pass_at_k(right, k) for k in TRIES if k <= len(right)}
