"""Every task accepts its own answers and refuses wrong ones."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections import Counter

import pytest

from jointsampler import UserError
from jointsampler.tasks import (
    TASKS,
    TAUGHT,
    chance,
    examples,
    get_task,
    independent,
    total_correlation,
)
from jointsampler.tasks.latin_square import SQUARES
from jointsampler.tasks.sudoku import GRIDS


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_accepts_its_own_answers_and_refuses_damaged_ones(name):
    task = TASKS[name]
    for example in examples(task, seed=1, n=50):
        assert task.check(example.prompt, example.answer), example
        words = example.answer.split()
        if name == "function":  # any code that parses is right, also another function
            assert not task.check(example.prompt, "    return )\n" + example.answer), example
            assert not task.check(example.prompt, "    # none\n"), example
            continue
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
        ("sudoku", "sudoku: 3___ _2__ 13__ __3_ ->", " 3142 4213 1324 2431", True),
        ("sudoku", "sudoku: 3___ _2__ 13__ __3_ ->", " 3142 4213 1324 2413", False),
        ("sudoku", "sudoku: 3___ _1__ 13__ __3_ ->", " 3142 4213 1324 2431", False),  # another clue
        ("expression", "expression: ) ann - ( bob * cid ->", " ( ann - bob ) * cid", True),
        (
            "expression",
            "expression: ) ann - ( bob * cid ->",
            " ann ( - bob ) * cid",
            True,
        ),  # a call
        ("expression", "expression: ) ann - ( bob * cid ->", " ( ann - bob * ) cid", False),
        ("expression", "expression: ) ann - ( bob * cid ->", " ( ann - ann ) * cid", False),
        ("function", "def f(ann):\n", "    return ann", True),
        ("function", "def f(ann):\n", "    if ann:\n        return (ann,\n", True),  # begins code
        ("function", "def f(ann):\n", "    return ann\n\nx = 'unfin", True),
        ("function", "def f(ann):\n", "    return ann)\nx = 1", False),
        ("function", "def f(ann):\n", "return ann\n", False),
        ("function", "def f(ann):\n", "    return ann\n    return )\nx = 1\n", False),
        ("function", "def f(ann):\n", "    return ann\n    return )\nx = 1", False),
        ("function", "def f(ann):\n", "    return ann\n    return )", True),  # a last line alone
        ("function", "def f(ann):\n", "    # ann\n\n", False),
    ],
)
def test_answers_are_judged_as_a_person_would(name, prompt, text, right):
    assert get_task(name).check(prompt, text) is right


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="did you mean 'shuffle'"):
        get_task("shufle")


LISTED = sorted(set(TASKS) - {"function"})


@pytest.mark.parametrize("name", LISTED)
def test_examples_are_drawn_from_the_listed_answers_alone(name):
    task = TASKS[name]
    for example in examples(task, seed=2, n=30):
        answers = task.answers(example.prompt)
        text = example.answer
        drawn = tuple(text.split())
        if name in ("latin_square", "arithmetic"):
            drawn = tuple(c for c in text if c.isdigit())
        if name == "sudoku":
            cells = text.replace(" ", "")
            hidden = example.prompt.split(":")[1].replace(" ", "")
            drawn = tuple(c for c, shown in zip(cells, hidden, strict=False) if shown == "_")
        assert drawn in answers.choices
        assert len(set(answers.choices)) == len(answers.choices)


@pytest.mark.parametrize(
    ("prompt", "symbols"),
    [
        ("shuffle: ann bob cid ->", "ann bob cid"),
        ("insert: ann bob | cid ->", "ann bob cid"),
        ("remove: ann bob cid ->", "ann bob cid"),
        ("expression: ann ( + ) bob ->", "ann bob + ( )"),
    ],
)
def test_the_listed_answers_are_all_that_the_check_accepts(prompt, symbols):
    """Every text of the right length, made of the symbols that a place could hold."""
    task = get_task(prompt.split(":")[0])
    answers = task.answers(prompt)
    length = len(answers.choices[0])
    every = itertools.product(symbols.split(), repeat=length)
    accepted = {words for words in every if task.check(prompt, " ".join(words))}
    assert accepted == set(answers.choices)
    assert answers.alphabet == len(symbols.split())
    assert chance(answers) == pytest.approx(len(accepted) / answers.alphabet**length)


def test_a_shuffle_of_four_has_its_closed_forms():
    answers = get_task("shuffle").answers("shuffle: ann bob cid dan ->")
    assert independent(answers) == pytest.approx(math.factorial(4) / 4**4)
    assert round(independent(answers), 3) == 0.094
    assert total_correlation(answers) == pytest.approx(4 * math.log(4) - math.log(24))
    assert round(total_correlation(answers), 3) == 2.367


def test_latin_squares_have_their_closed_forms():
    answers = get_task("latin_square").answers("latin square ->")
    assert independent(answers) == pytest.approx(576 / 4**16)
    assert total_correlation(answers) == pytest.approx(16 * math.log(4) - math.log(576))


def test_one_correct_answer_needs_no_joint_distribution():
    for name in ("copy", "reverse", "sort", "replace", "arithmetic"):
        answers = TASKS[name].answers(examples(TASKS[name], 0, 1)[0].prompt)
        assert independent(answers) == 1 and total_correlation(answers) == 0


@pytest.mark.parametrize("name", ["insert", "remove", "sudoku", "expression"])
def test_independent_unmasking_is_simulated_as_computed(name):
    """Places drawn one by one from the answers' own columns, 20,000 times."""
    answers = TASKS[name].answers(examples(TASKS[name], 4, 1)[0].prompt)
    rng, draws = random.Random(0), 20_000
    columns = list(zip(*answers.choices, strict=True))
    right = set(answers.choices)
    hits = sum(tuple(map(rng.choice, columns)) in right for _ in range(draws))
    assert hits / draws == pytest.approx(independent(answers), abs=4 * (0.25 / draws) ** 0.5)


def test_there_are_288_sudokus_and_a_puzzle_may_have_several_solutions():
    assert len(GRIDS) == 288
    task = get_task("sudoku")
    counts = Counter(len(task.answers(e.prompt).choices) for e in examples(task, 0, 200))
    assert counts[1] > 50 and max(counts) > 3


def test_the_embedded_teachers_tasks_do_not_change():
    """Its training data, its card and a corpus's built-in prompts depend on them."""
    drawn = [[tuple(e) for e in examples(task, 7, 5)] for _, task in sorted(TAUGHT.items())]
    digest = hashlib.sha256(repr(drawn).encode()).hexdigest()
    assert digest == "3a1741ee8d2a59c41643655a6786e330f504ec2f5f07f2fe1e1b7c8c015c6f6b"
