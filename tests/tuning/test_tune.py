"""Tuning on the machine at hand: what is measured, what is kept, and the method ``auto``."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from jointsampler import JointSampler, Refresh, UserError, generate, tune
from jointsampler.evaluation.stats import Interval
from jointsampler.tuning import Tuning, choose, frontier, pick
from jointsampler.tuning import tune as tune_package_function
from jointsampler.tuning.auto import resolve
from jointsampler.tuning.candidates import RULES, seconds_by_rule, seconds_per_token
from jointsampler.tuning.measure import trajectories
from jointsampler.tuning.situation import fingerprint
from tests.support.analytic import skewed_teacher
from tests.support.samplers import busy_sampler

LENGTH = 8
CALL = dict(num_samples=2, max_new_tokens=LENGTH, seed=3)


@pytest.fixture(scope="module")
def measured(tiny, hybrid_like, tmp_path_factory):
    """One tuning for two rows of the embedded teacher, every walk of a turn made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOINTSAMPLER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("jointsampler.tuning.measure.TURNS", 1)
        patch.setattr("jointsampler.tuning.measure.REPEATS", 1)
        return tune(tiny, 2, LENGTH, [hybrid_like], limit=1000)


@pytest.fixture
def given(measured, monkeypatch):
    """Every measurement of this test gives ``measured``; the list holds the keys asked for."""
    asked = []

    def instead(teacher, situation, samplers, prompts, key, limit, progress):
        asked.append(key)
        return Tuning.model_validate(measured.model_dump() | {"key": key})

    monkeypatch.setattr("jointsampler.tuning.tuner.measure", instead)
    return asked


def test_the_package_exports_one_tune():
    assert tune is tune_package_function


def test_every_update_is_a_candidate_at_every_k_and_sequential_is_the_first(measured, hybrid_like):
    first, *others = [each for each in measured.candidates if each.rule is None]
    assert measured.complete and first.k == 1 and first.speedup == 1 and first.nats.value == 0
    assert {each.k for each in others} == {2, 4, 8}
    assert {each.update for each in others} == {"none", "joint", "refresh"}
    assert {each.sampler for each in others} == {None, fingerprint(hybrid_like)}
    assert {each.columns for each in others if each.update == "refresh"} == {4, 8}
    marginal = [each for each in others if each.update == "none"]
    assert all(each.nats.n == trajectories(LENGTH, 1) and each.nats.value > 0 for each in marginal)


def test_seconds_follow_from_the_measured_steps(measured):
    full, single, batch = measured.full_seconds, measured.single_seconds, 2
    assert 0 < single <= full
    for each in measured.candidates:
        if each.rule is None:
            expected = seconds_per_token(full, each.update_seconds, each.k, LENGTH, batch)
        else:
            steps = full, single, each.update_seconds
            expected = seconds_by_rule(*steps, each.reveals, LENGTH, batch)
        assert each.seconds_per_token == pytest.approx(expected)
        base = full / batch
        assert each.speedup == pytest.approx(base / expected)


def test_every_published_rule_is_a_candidate_of_its_own_rounds(measured):
    rules = [each for each in measured.candidates if each.rule is not None]
    assert [(e.method, *e.settings.items()) for e in rules] == [
        (rule.method, (rule.setting, rule.value)) for rule in RULES
    ]
    for each in rules:
        assert each.update == "none" and each.k is None and each.nats.n >= trajectories(LENGTH, 1)
        assert (
            all(0 < sum(row) <= LENGTH for row in each.reveals) and len(each.reveals) == each.nats.n
        )


def test_a_refresh_is_nearer_than_the_marginal(measured):
    """Where both walked at one k; a refresh that is no faster than sequential does not walk."""
    fixed = [each for each in measured.measured if each.rule is None]
    nats = {(e.update, e.columns, e.policy, e.k): e.nats.value for e in fixed}
    pairs = [
        (n, nats["none", None, None, key[3]]) for key, n in nats.items() if key[0] == "refresh"
    ]
    assert pairs and all(near < far for near, far in pairs)


def test_an_update_slower_than_a_full_pass_does_not_walk(measured):
    for each in measured.candidates:
        screened = each.update == "refresh" and each.columns == 8 and each.k == 2
        exempt = screened or each.k == 1 or each.rule is not None
        if each.update_seconds >= measured.full_seconds and not exempt:
            assert each.nats is None


def test_a_second_call_measures_nothing_and_another_situation_does(tiny, given, hybrid_like):
    first = tune(tiny, 2, LENGTH)
    assert tune(tiny, 2, LENGTH) == first and len(given) == 1
    other = copy.copy(tiny)
    other.fingerprint = "other"
    calls = [
        lambda: tune(other, 2, LENGTH),
        lambda: tune(tiny, 4, LENGTH),
        lambda: tune(tiny, 2, LENGTH + 1),
        lambda: tune(tiny, 2, LENGTH, temperature=0.5),
        lambda: tune(tiny, 2, LENGTH, order="confidence"),
        lambda: tune(tiny, 2, LENGTH, [hybrid_like]),
        lambda: tune(tiny, 2, LENGTH, prompts=["def f("]),
        lambda: tune(tiny, 2, LENGTH, anew=True),
    ]
    for count, call in enumerate(calls, start=2):
        call()
        assert len(given) == count
    tune(tiny, 2, LENGTH, prompts=["def g("])  # of the same length
    assert len(given) == len(calls) + 1


def test_a_sampler_is_known_by_its_weights(tiny, trained_like):
    same, other = copy.deepcopy(trained_like), busy_sampler(tiny, depth=0, width=32)
    assert fingerprint(same) == fingerprint(trained_like) != fingerprint(other)
    with torch.no_grad():
        same.project.weight[0, 0] += 1
    assert fingerprint(same) != fingerprint(trained_like)


def test_a_broken_file_is_measured_again_and_an_unwritable_folder_is_said(
    tiny, given, cache, monkeypatch, caplog
):
    first = tune(tiny, 2, LENGTH)
    (file,) = (cache / "tuning").iterdir()
    file.write_text("{")
    assert tune(tiny, 2, LENGTH) == first and len(given) == 2
    monkeypatch.setenv("JOINTSAMPLER_CACHE", "/dev/null")
    with caplog.at_level(logging.WARNING):
        assert tune(tiny, 2, LENGTH) == first
    assert "the tuning is not kept" in caplog.text


def test_auto_equals_the_explicit_call_of_the_chosen_combination(tiny, given, hybrid_like, caplog):
    caplog.set_level(logging.INFO)
    table = tune(tiny, 2, LENGTH, [hybrid_like]).candidates
    by_update = {each.update: each for each in frontier(table)}
    aims = [{"budget": each.nats.value} for each in by_update.values()] + [{}, {"speed": 1.0}]
    for aim in aims:
        auto = generate(tiny, hybrid_like, method="auto", **aim, **CALL)
        choice = choose(tune(tiny, 2, LENGTH, [hybrid_like]), [hybrid_like], **aim)
        same = generate(tiny, choice.update, method=choice.method, **choice.settings, **CALL)
        assert torch.equal(auto.sequences, same.sequences)
        assert torch.equal(auto.order, same.order) and torch.equal(auto.round, same.round)
        assert (auto.method, auto.rule) == (same.method, same.rule)
        assert auto.method == choice.candidate.method
        assert f"auto: {choice.candidate}" in caplog.text
    assert "tuning for batch 2, 8 tokens" in caplog.text


def test_a_joint_pick_comes_with_the_sampler_it_was_measured_with(measured, hybrid_like, tiny):
    joint = next(e for e in measured.candidates if e.update == "joint")
    # Whether it is faster than a full pass of so small a teacher depends on the machine.
    nats = Interval(value=0.01, low=0.0, high=0.02, n=2)
    joint = joint.model_copy(update={"nats": nats, "speedup": 2.0})
    alone = measured.model_copy(update={"candidates": [measured.candidates[0], joint]})
    other = busy_sampler(tiny, depth=0, width=32)
    choice = choose(alone, [other, hybrid_like], budget=joint.nats.high)
    assert choice.update is hybrid_like and choice.method == "joint"
    assert choose(alone, [other, hybrid_like], budget=0).update is None


def test_a_budget_of_zero_decodes_sequentially(tiny, given):
    out = generate(tiny, method="auto", budget=0, **CALL)
    same = generate(tiny, method="sequential", **CALL)
    assert out.method == "sequential" and torch.equal(out.sequences, same.sequences)


def test_rows_share_a_tuning_up_to_the_next_power_of_two(tiny, given):
    for rows in (3, 4):
        generate(tiny, method="auto", budget=0, num_samples=rows, max_new_tokens=LENGTH)
    assert [key["batch"] for key in given] == [4]
    generate(tiny, method="auto", budget=0, num_samples=4, max_new_tokens=LENGTH, batch_size=2)
    assert [key["batch"] for key in given] == [4, 2]


def test_a_teacher_that_cannot_rerun_columns_has_no_refresh():
    teacher = skewed_teacher(6)
    teacher.rerun = lambda *arguments: torch.zeros(1)  # not the full pass's outputs
    found = tune(teacher, 1, 6)
    assert {each.update for each in found.candidates} == {"none"}
    assert pick(found.candidates, budget=0).k == 1
    # Whether a reveal is faster than a pass of so small a teacher depends on the machine.
    assert all(each.nats is not None for each in found.candidates if each.speedup > 1)


def test_the_time_limit_leaves_candidates_unmeasured_and_out_of_the_pick(tiny):
    found = tune(tiny, 1, LENGTH, limit=1e-6)
    assert found.walks == 0 and not found.complete and found.measured == found.candidates[:1]
    assert pick(found.candidates, budget=10).k == 1


def test_a_tuning_that_was_cut_short_is_measured_again_under_a_larger_limit(
    tiny, measured, monkeypatch
):
    limits = []

    def cut_short(teacher, situation, samplers, prompts, key, limit, progress):
        limits.append(limit)
        return measured.model_copy(update={"complete": limit > 5, "limit": limit, "key": key})

    monkeypatch.setattr("jointsampler.tuning.tuner.measure", cut_short)
    said = []
    for limit in (2, 1, 2, 4, 8, 16):
        tune(tiny, 1, LENGTH, limit=limit, progress=said.append)
    assert limits == [2, 4, 8]
    assert sum("before every candidate" in line for line in said) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 4}, "chooses k"),
        ({"block_length": 5}, "leave out block_length and cache"),
        ({"cache": "prefix"}, "leave out block_length and cache"),
        ({"threshold": 0.5}, "setting of method 'auto' 'threshold'"),
        ({"budgt": 0.5}, "did you mean 'budget'"),
        ({"budget": 0.1, "speed": 2}, "give one"),
        ({"budget": -1}, "nats per token from 0"),
        ({"speed": 1e9}, "Nothing measured here reaches"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 2}, "at least 4 tokens"),
        ({"max_new_tokens": 10_000}, "exceeds the context"),
        ({"order": "entropi"}, "did you mean 'entropy'"),
        ({"update": Refresh(4)}, "chooses the update"),
        ({"prompts": "text"}, "a list of strings"),
        ({"prompts": []}, "prompts is empty"),
    ],
)
def test_contradictory_and_bad_arguments_are_one_sentence(tiny, monkeypatch, measured, settings, said):  # fmt: skip
    monkeypatch.setattr("jointsampler.tuning.tuner.measure", lambda *arguments: measured)
    call = {"max_new_tokens": LENGTH} | settings
    with pytest.raises(UserError, match=said) as error:
        generate(tiny, method="auto", **call)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_samples": 0}, "num_samples and batch_size must be at least 1"),
        ({"batch_size": 0}, "num_samples and batch_size must be at least 1"),
        ({"top_p": 0}, "top_p must lie in"),
        ({"stop_at_end": True}, "has no end token"),
    ],
)
def test_what_decoding_refuses_is_not_tuned_first(given, settings, said):
    with pytest.raises(UserError, match=said):
        generate(skewed_teacher(4), method="auto", **({"max_new_tokens": 4} | settings))
    assert not given


@pytest.mark.parametrize(
    ("change", "said"),
    [({"batch": 0}, "at least 1 row"), ({"prompts": []}, "prompts is empty"), ({"length": 300}, "exceeds the context"), ({"limit": 0}, "positive number of seconds")],
)  # fmt: skip
def test_a_situation_out_of_range_is_refused(tiny, change, said):
    with pytest.raises(UserError, match=said):
        tune(tiny, **({"batch": 1, "length": LENGTH} | change))


def test_a_sampler_of_another_teacher_is_refused(tiny):
    other = copy.copy(tiny)
    other.fingerprint = "other"
    with pytest.raises(UserError, match="was distilled from teacher"):
        tune(tiny, 1, LENGTH, [JointSampler.for_teacher(other)])


def test_the_first_arguments_of_generate_keep_their_places(tiny):
    out = generate(tiny, None, ["def"], "marginal", 2, 1, 4)
    assert out.rule.limit == 2 and out.responses.shape == (1, 4)
    with pytest.raises(UserError, match="by keyword"):
        generate(tiny, None, ["def"], "auto", 2)


def test_resolving_keeps_what_decoding_needs(tiny, given):
    _, left = resolve(tiny, None, None, {"budget": 0, "k": None, "cache": "none", **CALL})
    assert left == CALL | {"k": 1}
