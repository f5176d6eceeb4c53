"""Lossless decoding samples words *and orders* as sequential decoding does, whatever drafts it.

The teachers' conditionals here agree on no joint, as a trained network's, so a wrong
order shows in the words at temperature 1 as well.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from jointsampler import Refresh, generate, rng
from jointsampler.columns import NearThenScores
from jointsampler.decoding.canvas import Canvas
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.round import Course, OpenRound
from jointsampler.decoding.sampling import Sampling, probabilities
from jointsampler.decoding.scoring import Scorer
from jointsampler.decoding.stops import FixedK
from jointsampler.decoding.strategy import Script, Strategy
from jointsampler.decoding.verify import FULL, ORDER, REJECTION, Draft, Walk
from jointsampler.updates import NoUpdate, full_pass
from tests.support.analytic import OracleUpdate, inconsistent_teacher, skewed_teacher
from tests.support.distributions import (
    of_words,
    p_value,
    sequential_distribution,
    up_to_end,
    words,
    words_with_orders,
)

# Often right, often wrong, wrong positions too; a refresh of two columns leaves the others stale.
DRAFTS = {
    "noisy": lambda teacher: OracleUpdate(teacher, noise=1.0),
    "refresh": lambda teacher: Refresh(2, NearThenScores(0)),
    "none": lambda teacher: None,
}
SAMPLINGS = [(1.0, 1.0), (0.7, 0.9)]
COUNT = dict(num_samples=8000, max_new_tokens=4, batch_size=4000, seed=6)


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_sequential_samples_follow_the_enumerated_distribution_of_words_and_orders(
    temperature, top_p
):
    teacher = inconsistent_teacher(4)
    exact = sequential_distribution(teacher, temperature, top_p)
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    settings = dict(temperature=temperature, top_p=top_p, **COUNT)
    sequential = generate(teacher, method="sequential", **settings)
    assert p_value(words_with_orders(sequential), exact) > 0.01
    marginal = generate(teacher, method="marginal", k=4, **settings)
    assert p_value(words(marginal), of_words(exact)) < 1e-6
    # Another order gives other words: these conditionals are of no joint.
    left = generate(teacher, method="sequential", order="left_to_right", **settings)
    assert p_value(words(left), of_words(exact)) < 1e-6


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_lossless_samples_words_and_orders_as_sequential_does(draft, k, temperature, top_p):
    teacher = inconsistent_teacher(4)
    out = generate(
        teacher, DRAFTS[draft](teacher), method="lossless", k=k,
        temperature=temperature, top_p=top_p, **COUNT,
    )  # fmt: skip
    exact = sequential_distribution(teacher, temperature, top_p)
    assert p_value(words_with_orders(out), exact) > 0.01
    assert p_value(words(out), of_words(exact)) > 0.01
    ends = out.round_ends.sum(0)  # every branch was taken
    assert ends[FULL] > 400 and ends[REJECTION] > 400 and (k == 2 or ends[ORDER] > 400)


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_padding_changes_no_distribution(temperature, top_p):
    """The table reads no prompt, so rows with a short prompt sample as those with a long one do."""
    teacher = inconsistent_teacher(4)
    teacher.tokenizer = SimpleNamespace(encode=lambda text, **_: [0] * len(text), decode=str)
    settings = COUNT | dict(num_samples=4000, temperature=temperature, top_p=top_p)
    out = generate(
        teacher, DRAFTS["refresh"](teacher), ["a", "abcd"], method="lossless", k=4, **settings
    )
    assert not out.attention_mask.all()
    exact = sequential_distribution(teacher, temperature, top_p)
    assert p_value(words_with_orders(out), exact) > 0.01


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_a_round_may_be_longer_than_a_block(temperature, top_p):
    teacher = inconsistent_teacher(4)
    out = generate(
        teacher, DRAFTS["refresh"](teacher), method="lossless", k=4, block_length=2,
        temperature=temperature, top_p=top_p, **COUNT,
    )  # fmt: skip
    exact = sequential_distribution(teacher, temperature, top_p, block_length=2)
    assert p_value(words_with_orders(out), exact) > 0.01
    if temperature == 1:  # with .7 and .9 blocks happen to change nothing
        whole = sequential_distribution(teacher)
        assert p_value(words_with_orders(out), whole) < 1e-6


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
@pytest.mark.parametrize("draft", ["noisy", "refresh"])
def test_rows_that_stop_at_their_end_have_the_texts_of_sequential(draft, temperature, top_p):
    """Symbol 2 ends a text; a correction may be what ends it, or be left behind the end."""
    teacher = inconsistent_teacher(4)
    teacher.end_ids, teacher.eos_id = (2,), 2
    out = generate(
        teacher, DRAFTS[draft](teacher), method="lossless", k=4, stop_at_end=True,
        temperature=temperature, top_p=top_p, **COUNT,
    )  # fmt: skip
    assert (out.order == -1).any()
    exact: Counter = Counter()
    for word, mass in of_words(sequential_distribution(teacher, temperature, top_p)).items():
        exact[up_to_end(word, 2)] += mass
    texts = Counter(up_to_end(tuple(word), 2) for word in out.responses.tolist())
    assert p_value(texts, exact) > 0.01


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_a_draft_is_judged_as_a_block(temperature, top_p):
    """The share of drafts kept whole is the mean of c in ``verify.py``, above that of single tests.

    A draft from marginals, left to right: its probabilities are those of the empty canvas.
    """
    teacher, sampling = inconsistent_teacher(4), Sampling(temperature, top_p)

    def at(word):
        canvas = torch.tensor([[*word, *[teacher.mask_id] * (4 - len(word))]])
        return probabilities(teacher.logits(teacher.hidden(canvas))[0], sampling)

    drafts = at(())
    block = single = 0.0
    for word in itertools.product(range(3), repeat=4):
        q = [float(drafts[i, word[i]]) for i in range(4)]
        if min(q) == 0:
            continue
        chance = product = 1.0
        for i in range(1, 4):
            ratio = float(at(word[:i])[i, word[i]]) / q[i]
            chance, product = min(1.0, chance * ratio), product * min(1.0, ratio)
        block += math.prod(q) * chance
        single += math.prod(q) * product
    assert block > single + 0.02
    out = generate(
        teacher, None, method="lossless", k=4, order="left_to_right",
        temperature=temperature, top_p=top_p, **COUNT,
    )  # fmt: skip
    whole = (out.round == 0).all(1).double()
    assert abs(float(whole.mean()) - block) < 4 * (block * (1 - block) / len(whole)) ** 0.5


def test_a_position_that_is_drafted_again_meets_other_random_numbers():
    """Whether it was kept told something of those that it had."""
    teacher, everyone = inconsistent_teacher(4), torch.ones(2, dtype=torch.bool)
    canvas = Canvas(teacher, [[0], [0]], torch.arange(2), 4)
    sampling, position = Sampling(), torch.zeros(2, dtype=torch.long)
    strategy = Strategy(NoUpdate(), FixedK(2), get_order("entropy"), sampling, 0, "strict")
    course = Course.of(strategy, canvas, Script(), None, None)
    opening = full_pass(teacher, canvas.ids, None, "nothing")
    scorer = Scorer(teacher, canvas, strategy.order, strategy.seed)
    numbers = []
    for _ in range(2):
        draft = Draft.empty(canvas, everyone, None)
        draft.add(position, position, torch.ones(2, 3), everyone)
        walk = Walk(scorer, draft, "strict", sampling, 4)
        tests = [walk._uniform(position, stream) for stream in (rng.ACCEPT, rng.RESIDUAL)]
        drawn = OpenRound(course, teacher, opening, 4, draft)._draws(position)
        numbers.append(torch.cat([drawn, *tests]))
        canvas.teacher_passes += 1
    assert len(torch.cat(numbers).unique()) == 2 * len(numbers[0])


def test_lossless_tokens_samples_from_a_consistent_joint_in_an_order_of_its_own():
    teacher = skewed_teacher(4)
    out = generate(teacher, DRAFTS["noisy"](teacher), method="lossless_tokens", k=4, **COUNT)
    assert p_value(words(out), teacher.joint) > 0.01
    assert p_value(words_with_orders(out), sequential_distribution(teacher)) < 1e-6
    assert out.round_ends[:, ORDER].sum() == 0 and out.round_ends[:, REJECTION].sum() > 400


@pytest.mark.parametrize(
    ("teacher", "sampling"),
    [
        (skewed_teacher(4), dict(temperature=0.7)),
        (skewed_teacher(4), dict(top_p=0.8)),
        (inconsistent_teacher(4), dict()),
    ],
    ids=["tempered", "top-p", "inconsistent"],
)
def test_lossless_tokens_is_not_sequential_when_tempered_or_cut_or_inconsistent(teacher, sampling):
    """Tempered conditionals of a joint are the conditionals of none, so another order gives other words."""
    exact = of_words(sequential_distribution(teacher, **sampling))
    settings = dict(k=4, **sampling, **COUNT)
    tokens = generate(teacher, DRAFTS["noisy"](teacher), method="lossless_tokens", **settings)
    strict = generate(teacher, DRAFTS["noisy"](teacher), method="lossless", **settings)
    assert p_value(words(tokens), exact) < 1e-4
    assert p_value(words(strict), exact) > 0.01


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("draft", ["joint", "refresh"])
def test_greedy_lossless_is_sequential_token_for_token(tiny, trained_like, draft, k):
    kwargs = dict(
        num_samples=3, max_new_tokens=14, temperature=0.0, prompts=["import ", "x = 1\ny"]
    )
    update = trained_like if draft == "joint" else Refresh(4)
    a = generate(tiny, method="sequential", **kwargs)
    b = generate(tiny, update, method="lossless", k=k, **kwargs)
    assert torch.equal(a.sequences, b.sequences)
    assert torch.equal(a.order, b.order)


def test_a_perfect_draft_is_accepted_whole_and_costs_one_verification_per_round():
    teacher = skewed_teacher(1)
    out = generate(
        teacher, OracleUpdate(teacher), method="lossless", k=4, num_samples=50, max_new_tokens=4
    )
    # The opening pass and one verification, whose rows are the four prefixes.
    assert out.teacher_passes.unique().tolist() == [2]
    assert out.teacher_rows.unique().tolist() == [1 + 4]
    assert out.update_passes.unique().tolist() == [3]
    assert out.round_ends.tolist() == [[1, 0, 0]] * 50


@pytest.mark.parametrize("draft", ["joint", "refresh", "none"])
def test_the_account_adds_up(tiny, trained_like, draft):
    update = {"joint": trained_like, "refresh": Refresh(4), "none": None}[draft]
    out = generate(tiny, update, method="lossless", k=4, num_samples=4, max_new_tokens=12)
    rounds = out.round_ends.sum(1)
    # A pass that opens the first round; then verifications alone, after rejections too.
    assert torch.equal(out.teacher_passes, 1 + rounds)
    # A verification is up to four rows, and every drafted token is one.
    assert (out.teacher_rows > out.teacher_passes).all()
    assert (out.teacher_rows <= 1 + 4 * rounds).all()
    assert (out.teacher_rows >= 1 + 12).all()
    assert out.round_ends[:, REJECTION].any()
    assert all(sorted(order) == list(range(12)) for order in out.order.tolist())
    assert not (out.responses == tiny.mask_id).any()


@pytest.mark.parametrize("method", ["lossless", "lossless_tokens"])
def test_a_row_gives_the_same_sample_whatever_the_batch(tiny, trained_like, method):
    kwargs = dict(method=method, k=3, num_samples=5, max_new_tokens=9, seed=2)
    for update in (trained_like, Refresh(4)):
        a, b = (generate(tiny, update, batch_size=size, **kwargs) for size in (5, 2))
        assert torch.equal(a.sequences, b.sequences)
        assert torch.equal(a.teacher_rows, b.teacher_rows)
