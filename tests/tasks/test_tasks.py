"""Every task accepts its own answers and refuses wrong ones."""

from __future__ import annotations

import random

import pytest

from jointsampler import UserError
from jointsampler.tasks import TASKS, examples, get_task
from jointsampler.tasks.latin_square import SQUARES


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_accepts_its_own_answers_and_refuses_damaged_ones(name):
    task = TASKS[name]
    for example in examples(task, seed=1, n=50):
        assert task.check(example.prompt, example.answer), example
        words = example.answer.split()
        assert not task.check(example.prompt, " ".join(words[:-1])), example
        assert not task.check(example.prompt, " ".join([*words, words[0]])), example
        assert not task.check(example.prompt, ""), example


@pytest.mark.parametrize("name", sorted(TASKS))
def test_examples_depend_on_seed_and_index_alone(name):
    task = TASKS[name]
    assert examples(task, 3, 5) == examples(task, 3, 9)[:5]
    if name != "latin_square":  # its prompt is always the same
        assert examples(task, 3, 5) != examples(task, 4, 5)


def test_there_are_576_latin_squares_and_each_is_drawn():
    assert len(SQUARES) == 576
    rng = random.Random(0)
    assert len({get_task("latin_square").example(rng).answer for _ in range(8000)}) == 576


@pytest.mark.parametrize(
    ("name", "prompt", "text", "right"),
    [
        ("sort", "sort: zoe ann max ->", " ann max zoe", True),
        ("sort", "sort: zoe ann max ->", " max ann zoe", False),
        ("shuffle", "shuffle: ann bob ->", " bob ann", True),
        ("shuffle", "shuffle: ann bob ->", " bob bob", False),
        ("insert", "insert: ann bob | zoe ->", " ann zoe bob", True),
        ("insert", "insert: ann bob | zoe ->", " bob zoe ann", False),
        ("remove", "remove: ann bob ->", " bob", True),
        ("replace", "replace: ann bob | bob zoe ->", " ann zoe", True),
        ("arithmetic", "add: 38 + 47 ->", " 8 + 7 = 15, 3 + 4 + 1 = 8, sum 85", True),
        ("arithmetic", "add: 38 + 47 ->", " 8 + 7 = 15, 3 + 4 + 1 = 8, sum 86", False),
    ],
)
def test_answers_are_judged_as_a_person_would(name, prompt, text, right):
    assert get_task(name).check(prompt, text) is right


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="did you mean 'shuffle'"):
        get_task("shufle")
