"""Paired measurements: the same prompts and seeds for all, ratios to the first."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler import Refresh, UserError, generate
from jointsampler.decoding.orders import Entropy
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import FixedK
from jointsampler.decoding.strategy import Strategy
from jointsampler.evaluation.paired import Contender, Paired, PairedRun
from jointsampler.tasks import TASKS
from jointsampler.updates import NoUpdate

CONDITIONS = dict(
    prompts_per_task=4, max_new_tokens=8, tasks=("copy", "remove"), seed=7, each_in_chunk=2
)


def contender(name, k, update=None):
    update = update or NoUpdate()
    return Contender(name, {"k": k}, Strategy(update, FixedK(k), Entropy(), Sampling(), 7))


def measured(teacher, contenders, **changed):
    run = PairedRun(teacher, contenders, Paired(**CONDITIONS | changed))
    run.details()
    assert list(run.chunks()) == list(range(1, len(run) + 1))
    return run


@pytest.fixture(scope="module")
def run(tiny):
    contenders = [contender("sequential", 1), contender("again", 1), contender("eight", 8),
                  contender("refreshed", 8, Refresh(99))]  # fmt: skip
    return measured(tiny, contenders, fidelity=1)


@pytest.fixture(scope="module")
def rows(run):
    return run.rows()


def test_the_accuracy_is_that_of_generate(tiny, rows):
    prompts = Paired(**CONDITIONS).prompts()
    assert [name for name, _ in prompts] == ["copy", "remove"] * 4
    texts = generate(
        tiny,
        None,
        [p for _, p in prompts],
        "marginal",
        8,
        max_new_tokens=8,
        seed=7,
        stop_at_end=True,
    ).texts
    right = [TASKS[name].check(p, text) for (name, p), text in zip(prompts, texts, strict=True)]
    assert rows[2].accuracy.value == sum(right) / 8 and rows[2].samples == rows[2].accuracy.n == 8


def test_a_contender_that_equals_the_reference_has_ratio_one_without_a_doubt(rows):
    for row in (rows[0], rows[1], rows[3]):
        ratio = row.accuracy_ratio
        assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)


def test_cost_is_relative_to_the_reference_and_less_where_passes_are(rows):
    assert rows[0].cost.value == rows[0].cost.high == 1
    assert rows[2].cost.value < 0.7 * rows[1].cost.value
    assert rows[2].cost.n == 2 and rows[2].cost_alone.n == 2  # chunks, and single prompts
    assert rows[2].teacher_passes <= 1 and rows[3].update_passes <= 7


def test_a_prompts_cost_is_in_full_passes_of_the_reference(rows):
    for row in rows:
        cost = np.array(row.units["task_tokens_per_cost"].under)
        assert cost.shape == (8,) and row.tokens_per_cost == row.task_tokens_per_cost
    passes = rows[0].units["task_tokens_per_pass"].under
    assert rows[0].units["task_tokens_per_cost"].under == passes  # sequential's is its passes
    ours, theirs = (np.array(rows[i].units["task_tokens_per_cost"].under) for i in (2, 0))
    for chunk in (slice(0, 4), slice(4, 8)):  # its chunk's share of the time, prompt by prompt
        relative = ours[chunk] / theirs[chunk]
        assert relative == pytest.approx(relative[:1].repeat(4), rel=1e-4) and relative[0] < 1


def test_rows_differ_in_pairs_from_the_rows_of_a_named_method(run, rows):
    results = run.results(("sequential", "refreshed"))
    pairs = {(d.row, d.against) for d in results.differences if d.metric == "accuracy"}
    titles = [row.title for row in rows]
    assert pairs >= {(title, titles[0]) for title in titles[1:]}
    assert pairs >= {(title, titles[3]) for title in titles[1:3]}
    (equal,) = (d for d in results.differences if d.metric == "accuracy" and d.row == titles[3])
    assert str(equal) == "no difference at n = 8"  # the exact update against sequential
    (nats,) = (
        d.value for d in results.differences
        if d.metric == "nats_per_token_sampled_on_tasks" and (d.row, d.against) == (titles[2], titles[3])
    )  # fmt: skip
    assert nats.value > 0 and nats.n == 2


def test_curves_and_examples_are_those_of_the_rows(run, rows):
    results = run.results(shown=3)
    assert [curve.label for curve in results.curves] == ["again", "eight", "refreshed"]
    assert all(curve.aup.n == 8 for curve in results.curves)
    prompts = [prompt for _, prompt in Paired(**CONDITIONS).prompts()]
    examples = results.examples
    assert examples.columns == [row.title for row in rows]
    assert all(len(column) == 3 for column in (*examples.texts, *examples.unmaskings))
    first = zip(prompts, examples.texts[2], examples.unmaskings[2], strict=False)
    assert all(text == prompt + "".join(r.tokens[: r.end]) for prompt, text, r in first)
    assert set(results.items) == {
        "accuracy", "task_tokens_per_pass", "task_tokens_per_cost", "nats_per_token_sampled_on_tasks"
    }  # fmt: skip


def test_the_kl_of_the_joint_is_zero_by_definition_and_of_an_exact_update_by_measurement(rows):
    nats = [row.kl_on_tasks["sampled"].nats_per_token for row in rows]
    assert (nats[0].value, nats[0].n) == (0, 0)
    assert nats[3].value == pytest.approx(0, abs=1e-5) and nats[3].n == 2
    assert nats[2].value > nats[3].value


def test_chunks_change_no_answer(tiny):
    both = [
        measured(
            tiny, [contender("one", 1), contender("four", 4)], each_in_chunk=n, fidelity=0
        ).rows()
        for n in (1, 4)
    ]
    for one, other in zip(*both, strict=True):
        assert one.accuracy == other.accuracy and one.teacher_passes == other.teacher_passes
        assert one.units["task_tokens_per_pass"] == other.units["task_tokens_per_pass"]
    assert not both[0][1].kl_on_tasks


def test_a_table_is_there_after_every_chunk(tiny):
    run = PairedRun(tiny, [contender("one", 1)], Paired(**CONDITIONS))
    assert [run.rows()[0].samples for _ in run.chunks()] == [4, 8]


def test_no_prompts_are_refused():
    with pytest.raises(UserError, match="at least 1 prompt"):
        Paired(prompts_per_task=0)
