"""The harness's own benchmarks on local files in their published columns, without a network."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import lm_eval
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import jointsampler.harness  # noqa: F401  # code tasks get their metric from it
from tests.support.problems import PROBLEMS
from tests.support.sandbox import need_sandbox

TASKS = Path(lm_eval.__file__).parent / "tasks"

# Task: (its file in the harness, split -> rows in the published columns, right answers).
BENCHMARKS: dict[str, tuple[str, dict[str, list[dict]], list[str]]] = {
    "gsm8k": (
        "gsm8k/gsm8k.yaml",
        {
            "train": [{"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2"}],
            "test": [
                {"question": "Ann has 2 pens and buys 3. How many has she?", "answer": "#### 5"},
                {"question": "Bob eats 1 of 4 pears. How many are left?", "answer": "#### 3"},
            ],
        },
        ["2 + 3 = 5\n#### 5", "4 - 1 = 3\n#### 3"],
    ),
    "minerva_math": (
        "minerva_math/minerva_math_algebra.yaml",
        {
            "train": [],
            "test": [
                {
                    "problem": "Solve $x + 2 = 5$.",
                    "level": "Level 1",
                    "type": "Algebra",
                    "solution": r"We have $x = \boxed{3}$.",
                }
            ],
        },
        ["Final Answer: The final answer is $3$. I hope it is correct."],
    ),
    "mbpp": (
        "mbpp/mbpp.yaml",
        {
            "test": [
                {
                    "task_id": 1,
                    "text": "Write a function to double a number.",
                    "code": "def double(n):\n    return 2 * n",
                    "test_list": [f"assert double({n}) == {2 * n}" for n in (1, 2, 3)],
                    "test_setup_code": "",
                    "challenge_test_list": [],
                }
            ],
        },
        ["def double(n):\n    return n + n\n"],
    ),
    "humaneval": (
        "humaneval/humaneval.yaml",
        {"test": [asdict(problem) for problem in PROBLEMS]},
        [problem.canonical_solution for problem in PROBLEMS],
    ),
    "bbh": (
        "bbh/zeroshot/boolean_expressions.yaml",
        {"test": [{"input": "not True and False is", "target": "False"}]},
        ["False"],
    ),
}


class Answering(LM):
    """Gives the documents the answers of a list."""

    def __init__(self, answers: list[str]):
        super().__init__()
        self.answers = answers

    def generate_until(self, requests, disable_tqdm=False):
        return [self.answers[request.doc_id] for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def evaluated(name: str, folder: Path, model, **given) -> dict:
    """The task file that docs/evaluation.md describes, on rows written to ``folder``."""
    source, splits, _ = BENCHMARKS[name]
    splits = {split: rows for split, rows in splits.items() if rows}
    for split, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    task = {
        "include": str(TASKS / source),
        "task": f"{name}_local",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(folder / f"{split}.jsonl") for split in splits},
            "cache_dir": str(folder / "cache"),
        },
        "num_fewshot": 0,
    }
    file = folder / f"{name}_local.yaml"
    file.write_text(yaml.safe_dump(task))
    return simple_evaluate(
        model,
        tasks=[str(file)],
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,  # the harness asks for it; the programs are in the sandbox
        task_manager=TaskManager(include_defaults=False),
        **given,
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_right_answers_are_right(name, tmp_path):
    if name in ("mbpp", "humaneval"):
        need_sandbox()
    if name == "minerva_math" and importlib.util.find_spec("math_verify") is None:
        pytest.skip("lm-eval[math] is not installed")
    answers = BENCHMARKS[name][2]
    results = evaluated(name, tmp_path, Answering(answers))
    (found,) = results["results"].values()
    scores = [
        v for k, v in found.items() if k.split(",")[0] in ("exact_match", "pass@1", "pass_at_1")
    ]
    assert scores and all(score == 1 for score in scores)
    assert results["n-samples"][f"{name}_local"]["original"] == len(answers)


def test_a_benchmark_on_local_data_is_decoded_by_our_methods(tmp_path):
    given = {"model_args": {"teacher": "tiny", "method": "marginal", "k": 4, "max_gen_toks": 8}}
    results = evaluated("gsm8k", tmp_path, "jointsampler", device="cpu", **given)
    samples = results["samples"]["gsm8k_local"]  # one per document and filter
    prompts = {sample["doc_id"]: sample["arguments"][0][0] for sample in samples}
    rows = BENCHMARKS["gsm8k"][1]["test"]
    assert list(prompts.values()) == [f"Question: {row['question']}\nAnswer:" for row in rows]
    assert 0 <= results["results"]["gsm8k_local"]["exact_match,strict-match"] <= 1
    assert results["config"]["cost"]["teacher_passes"] == 2 * 2
