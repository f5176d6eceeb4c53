"""Enumeration, chain-rule KL, closed forms and the decoder's own samples agree."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from jointsampler import Refresh, Trajectories, UserError, block_kl, generate
from jointsampler.decoding.methods import get_method
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.evaluation.exact import ExactJoint, exact_joint, teacher_joint
from jointsampler.evaluation.kl import fixed_rounds, walk
from jointsampler.tasks import UNSEEN, examples, get_task
from jointsampler.tasks._task import fields_of
from jointsampler.updates import NoUpdate, as_update
from tests.support.analytic import (
    OracleUpdate,
    inconsistent_teacher,
    shuffle_nats,
    shuffle_teacher,
    skewed_teacher,
)
from tests.support.distributions import p_value, words


def strategy(name, update=None, k=4, order="entropy", sampling=None, **settings):
    method = get_method(name)
    chosen = method.chosen_update(update)
    sampling = sampling or Sampling()
    return method.strategy(chosen, k, 4, settings, get_order(order), sampling, 0)


def masks(teacher) -> list[int]:
    return [teacher.mask_id] * teacher.length


def every_symbol(teacher) -> list[list[int]]:
    return [list(range(teacher.symbols))] * teacher.length


def trajectories(teacher, joint: ExactJoint, prompt: list[int]) -> Trajectories:
    """Every word of ``joint`` once, from left to right."""
    count, length = joint.words.shape
    places = torch.arange(length).repeat(count, 1)
    rows = torch.zeros(count, dtype=torch.long)
    tokens = torch.from_numpy(joint.words)
    return Trajectories(rows, [prompt] * count, tokens, places, 0, teacher.fingerprint)


def test_a_shuffle_of_four_has_the_closed_forms():
    """24 of 256 words are permutations: validity .094, total correlation ln(256 / 24) = 2.367 nats."""
    teacher = shuffle_teacher(4)
    p = teacher_joint(teacher, masks(teacher), every_symbol(teacher), strategy("marginal"))
    q = exact_joint(teacher, masks(teacher), every_symbol(teacher), strategy("marginal", k=4))
    valid = np.array([len(set(word)) == 4 for word in p.words.tolist()])
    assert valid.sum() == 24 and p.mass(valid) == pytest.approx(1)
    assert p.probs[valid] == pytest.approx(np.full(24, 1 / 24), rel=1e-5)
    assert q.mass(valid) == pytest.approx(24 / 256, rel=1e-5)
    assert round(q.mass(valid), 3) == 0.094
    assert q.probs == pytest.approx(np.full(256, 1 / 256), rel=1e-5)
    rows = Trajectories.from_generation(
        generate(teacher, method="sequential", num_samples=4, max_new_tokens=4), 0, teacher
    )
    by_chain_rule = block_kl(teacher, None, rows, k=4).marginal.value
    for nats in (p.kl(q), p.total_correlation(), shuffle_nats(4), by_chain_rule):
        assert nats == pytest.approx(np.log(256 / 24), rel=1e-4)
        assert round(nats, 3) == 2.367
    # Half of |1/24 - 1/256| over the permutations, and of 1/256 over all other words.
    assert p.total_variation(q) == pytest.approx(1 - 24 / 256, rel=1e-5)


UPDATES = {
    "none": lambda teacher: NoUpdate(),
    "noisy": lambda teacher: OracleUpdate(teacher, noise=0.5),
    "oracle": lambda teacher: OracleUpdate(teacher),
}


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("make", [skewed_teacher, inconsistent_teacher])
def test_the_chain_rule_over_all_words_is_the_kl_of_the_enumerated_joints(make, update, k):
    """Sum over words of p(word) x the walk's nats along it = KL(p || q), for any conditionals."""
    teacher = make(2)
    chosen = fixed_rounds(UPDATES[update](teacher), k, "left_to_right", 0)
    p = teacher_joint(teacher, masks(teacher), every_symbol(teacher), chosen)
    q = exact_joint(teacher, masks(teacher), every_symbol(teacher), chosen)
    assert p.outside == q.outside == 0
    rows = trajectories(teacher, p, [])
    nats = walk(teacher, chosen, rows).nats.sum(1)
    assert p.kl(q) == pytest.approx((p.probs * nats).sum(), rel=1e-4, abs=1e-6)
    assert (p.kl(q) > 0.01) == (update != "oracle")
    assert p.total_variation(q) <= np.sqrt(p.kl(q) / 2) + 1e-6  # Pinsker


def test_the_enumerated_joint_of_a_table_is_the_table_whatever_the_order():
    teacher = skewed_teacher(4)
    for order in ("entropy", "margin", "random", "left_to_right"):
        p = teacher_joint(
            teacher, masks(teacher), every_symbol(teacher), strategy("marginal", order=order)
        )
        table = [teacher.joint[tuple(word)] for word in p.words.tolist()]
        assert p.probs == pytest.approx(table, rel=1e-4, abs=1e-9)


CASES = {
    "marginal": lambda t: dict(method="marginal", k=2),
    "noisy": lambda t: dict(method="joint", k=4, update=OracleUpdate(t, noise=0.5)),
    "threshold": lambda t: dict(method="threshold", threshold=0.6),
    "tempered": lambda t: dict(method="marginal", k=3, temperature=0.7, top_p=0.8),
}


@pytest.mark.parametrize("name", CASES)
def test_generate_draws_from_the_enumerated_joint(name):
    """Chi-square of 4,000 samples, in each method's own entropy order."""
    teacher = inconsistent_teacher(7)
    call = CASES[name](teacher)
    out = generate(teacher, num_samples=4000, max_new_tokens=4, batch_size=4000, seed=3, **call)
    sampling = Sampling(call.pop("temperature", 1.0), call.pop("top_p", 1.0))
    chosen = strategy(call.pop("method"), call.pop("update", None), sampling=sampling, **call)
    # With the token that opens a row, as generate has it: the noise depends on the column.
    q = exact_joint(teacher, [teacher.bos_id, *masks(teacher)], every_symbol(teacher), chosen)
    assert q.probs.sum() == pytest.approx(1, abs=1e-9)
    exact = {
        tuple(word): mass
        for word, mass in zip(q.words.tolist(), q.probs.tolist(), strict=True)
        if mass > 0
    }
    assert p_value(words(out), exact) > 1e-3


def test_known_positions_are_context_and_the_batch_changes_nothing():
    teacher = skewed_teacher(1)
    canvas = [1, teacher.mask_id, 0, teacher.mask_id]
    found = teacher_joint(teacher, canvas, [[0, 1, 2]] * 2, strategy("marginal"))
    weight = {w: teacher.joint[1, w[0], 0, w[1]] for w in itertools.product(range(3), repeat=2)}
    expected = [weight[tuple(word)] / sum(weight.values()) for word in found.words.tolist()]
    assert found.probs == pytest.approx(expected, rel=1e-4)
    one = exact_joint(teacher, canvas, [[0, 1, 2]] * 2, strategy("marginal", k=2), batch_size=2)
    all_ = exact_joint(teacher, canvas, [[0, 1, 2]] * 2, strategy("marginal", k=2))
    assert np.allclose(one.log_probs, all_.log_probs)


def test_what_a_support_leaves_out_is_one_outcome():
    teacher = shuffle_teacher(3)
    part = [[0, 1], [0, 1], [2]]
    p = teacher_joint(teacher, masks(teacher), part, strategy("marginal", k=3))
    q = exact_joint(teacher, masks(teacher), part, strategy("marginal", k=3))
    assert p.outside == pytest.approx(4 / 6, rel=1e-5)
    assert q.outside == pytest.approx(23 / 27, rel=1e-5)
    # Words 012 and 102 have 1/6 of p and 1/27 of q, 002 and 112 none of p; the rest is outside.
    whole = (2 * (1 / 6 - 1 / 27) + 2 / 27 + 23 / 27 - 4 / 6) / 2
    assert p.total_variation(q) == pytest.approx(whole, rel=1e-5)


@pytest.fixture(scope="module")
def shuffle(tiny):
    """The embedded teacher on a shuffle of three, its vocabulary cut down to the three names."""
    task = get_task("shuffle")
    asked = next(e.prompt for e in examples(task, UNSEEN, 40) if len(fields_of(e.prompt)[0]) == 3)
    encode = tiny.tokenizer.encode
    names = [encode(f" {n}", add_special_tokens=False) for n in fields_of(asked)[0]]
    assert all(len(ids) == 1 for ids in names)
    names = [ids[0] for ids in names]
    cut = copy.copy(tiny)
    only = torch.full((tiny.vocab_size,), -torch.inf).index_fill(0, torch.tensor(names), 0.0)
    cut.logits = lambda states: tiny.logits(states) + only
    prompt = [tiny.bos_id, *encode(asked, add_special_tokens=False)]
    return tiny, cut, prompt, names


def test_on_the_embedded_teachers_shuffle_all_three_agree(shuffle):
    """The chain-rule walk over all 27 words, the enumeration, and what a valid shuffle needs."""
    _, cut, prompt, names = shuffle
    canvas = [*prompt, *[cut.mask_id] * 3]
    found = {}
    for name, update in (("marginal", None), ("refresh", Refresh(4))):
        chosen = fixed_rounds(as_update(update), 3, "left_to_right", 0)
        p = teacher_joint(cut, canvas, [names] * 3, chosen)
        q = exact_joint(cut, canvas, [names] * 3, chosen)
        assert p.outside == q.outside == 0
        nats = walk(cut, chosen, trajectories(cut, p, prompt)).nats.sum(1)
        assert p.kl(q) == pytest.approx((p.probs * nats).sum(), rel=1e-3, abs=1e-6)
        found[name] = p.kl(q)
    assert found["refresh"] < 0.1 * found["marginal"]


def test_in_its_whole_vocabulary_independent_unmasking_loses_most_valid_shuffles(shuffle):
    teacher, _, prompt, names = shuffle
    canvas = [*prompt, *[teacher.mask_id] * 3, teacher.eos_id]
    mass = {}
    for name, update, k in (("sequential", None, 1), ("marginal", None, 3), ("refresh", Refresh(8), 3)):  # fmt: skip
        chosen = fixed_rounds(as_update(update), k, "entropy", 0)
        found = exact_joint(teacher, canvas, [names] * 3, chosen)
        mass[name] = found.mass([len(set(word)) == 3 for word in found.words.tolist()])
    assert mass["marginal"] < 0.5 * mass["sequential"]
    assert mass["refresh"] == pytest.approx(mass["sequential"], abs=0.03)


def test_a_verified_method_a_wrong_support_and_too_many_words_are_refused():
    teacher = shuffle_teacher(4)
    canvas, support = masks(teacher), every_symbol(teacher)
    with pytest.raises(UserError, match="draws by rejection"):
        exact_joint(teacher, canvas, support, strategy("lossless"))
    with pytest.raises(UserError, match="4 masked positions and the support 3 lists"):
        exact_joint(teacher, canvas, support[:3], strategy("marginal"))
    with pytest.raises(UserError, match="0 masked positions"):
        exact_joint(teacher, [0, 1, 2, 3], [], strategy("marginal"))
    with pytest.raises(UserError, match="more than 65536"):
        exact_joint(teacher, canvas, [list(range(20))] * 4, strategy("marginal"))


def test_a_distribution_that_cannot_draw_a_word_is_infinitely_far_from_one_that_can():
    words = np.array([[0], [1]])
    fair, certain = ExactJoint(words, np.log([0.5, 0.5])), ExactJoint(words, np.array([0, -np.inf]))
    assert certain.kl(fair) == pytest.approx(np.log(2)) and fair.kl(certain) == np.inf
    assert fair.total_variation(certain) == pytest.approx(0.5)
    assert certain.total_correlation() == fair.total_correlation() == 0
