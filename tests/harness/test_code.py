"""Code tasks through lm-evaluation-harness, without a network: every program runs in the sandbox."""

from __future__ import annotations

import evaluate
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from jointsampler import Refresh, generate
from jointsampler.evaluation.human_eval import cut, pass_at_k, solved
from jointsampler.harness.command import TASKS as FOLDER
from tests.support.problems import PROBLEMS, write
from tests.support.sandbox import need_sandbox

TOKENS = 16


@pytest.fixture(autouse=True)
def _sandbox():
    need_sandbox()


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return write(tmp_path_factory.mktemp("problems") / "ours.jsonl")


def evaluated(problems, batch_size: int, task: str = "jointsampler_humaneval", **given) -> dict:
    return simple_evaluate(
        "jointsampler",
        model_args={"teacher": "tiny", "method": "refresh", "k": 4},
        tasks=[task],
        gen_kwargs={"max_gen_toks": TOKENS},
        batch_size=batch_size,
        **given,
        device="cpu",
        bootstrap_iters=0,
        task_manager=TaskManager(
            include_path=str(FOLDER), include_defaults=False, metadata={"data": str(problems)}
        ),
    )


def samples_of(results: dict, task: str = "jointsampler_humaneval") -> list[dict]:
    return results["samples"][task]


def test_the_harness_and_our_own_runner_agree(tiny, problems):
    results = evaluated(problems, 16)
    out = generate(
        tiny, Refresh(), [p.prompt for p in PROBLEMS], "refresh", 4,
        max_new_tokens=TOKENS, temperature=0, stop_at_end=True,
    )  # fmt: skip
    completions = [cut(text) for text in out.texts]
    right = solved(PROBLEMS, completions)
    assert [s["resps"][0][0] for s in samples_of(results)] == completions
    accuracy = results["results"]["jointsampler_humaneval"]["pass@1,none"]
    assert accuracy == sum(right) / len(right) and 0 < accuracy < 1


def test_the_batch_size_changes_no_completion(problems):
    one, four = (samples_of(evaluated(problems, size)) for size in (1, 4))
    assert [s["resps"] for s in one] == [s["resps"] for s in four]
    assert [s["pass@1"] for s in one] == [s["pass@1"] for s in four]


def test_pass_at_k_is_over_the_samples_of_our_own_runner(tiny, problems):
    task, problem = "jointsampler_humaneval_20", PROBLEMS[1]
    results = evaluated(problems, 20, task, samples={task: [1]})
    out = generate(
        tiny, Refresh(), [problem.prompt], "refresh", 4, num_samples=20,
        max_new_tokens=TOKENS, temperature=0.8, top_p=0.95, stop_at_end=True,
    )  # fmt: skip
    completions = [cut(text) for text in out.texts]
    assert samples_of(results, task)[0]["resps"] == [completions]
    right = solved([problem] * 20, completions)
    found = results["results"][task]
    assert found["pass@1,none"] == pytest.approx(sum(right) / 20) and 0 < sum(right) < 20
    assert found["pass@10,none"] == pytest.approx(pass_at_k(right, 10))
    assert "pass@100,none" not in found


def test_the_metric_of_the_harness_code_tasks_is_ours():
    metric = evaluate.load("code_eval")
    programs = [["def f(): return 1", "def f(): return 2"], ["x = 1", "raise SystemExit(0)"]]
    tests = ["assert f() == 1", "assert x == 1"]
    passed, outcomes = metric.compute(references=tests, predictions=programs, k=[1, 2, 10])
    assert passed == {"pass@1": 0.5, "pass@2": 1.0}
    assert [[row["passed"] for _, row in rows] for rows in outcomes.values()] == [
        [True, False],
        [True, False],
    ]


def test_other_metrics_are_still_the_packages_own():
    with pytest.raises(FileNotFoundError):
        evaluate.load("./no_such_metric")
