"""The list tasks as documents of the harness; the files in ``tasks/`` name these functions.

Examples and their checks are those of ``jointsampler/tasks``.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from ..tasks import UNSEEN, examples, get_task


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
    """Whether the response is one of the document's correct answers."""
    return {"acc": float(get_task(doc["task"]).check(doc["prompt"], results[0]))}
