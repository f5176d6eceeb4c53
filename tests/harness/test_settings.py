"""Arguments of the model and of a generation: what is read, and what is refused."""

from __future__ import annotations

import pytest

from jointsampler import UserError
from jointsampler.cli.common import updates_of
from jointsampler.harness.settings import read_settings, read_wanted

SETTINGS = read_settings({"temperature": 0.5, "top_p": 0.9, "max_gen_toks": 40})


@pytest.mark.parametrize(
    ("given", "temperature", "top_p", "length"),
    [
        ({}, 0.5, 0.9, 40),
        ({"do_sample": False}, 0.0, 0.9, 40),
        ({"do_sample": False, "temperature": 0.7}, 0.0, 0.9, 40),
        ({"do_sample": True}, 0.5, 0.9, 40),
        ({"do_sample": True, "temperature": 0.2, "top_p": 0.95}, 0.2, 0.95, 40),
        ({"temperature": 0.0, "max_gen_toks": 12, "num_beams": 1}, 0.0, 0.9, 12),
        ({"max_new_tokens": 12}, 0.5, 0.9, 12),
    ],
)
def test_the_task_decides_and_the_model_completes(given, temperature, top_p, length):
    wanted = read_wanted(given, SETTINGS)
    assert (wanted.temperature, wanted.top_p, wanted.max_new_tokens) == (temperature, top_p, length)


def test_sampling_without_a_temperature_is_at_one_and_nothing_stated_is_greedy():
    assert read_wanted({"do_sample": True}, read_settings({})).temperature == 1.0
    assert read_wanted({}, read_settings({})).temperature == 0.0


def test_an_update_recomputes_the_samplers_own_columns_unless_told(hybrid_like, monkeypatch):
    monkeypatch.setattr(hybrid_like.config, "columns", 3)
    updates = updates_of(read_settings({}), hybrid_like)
    assert (updates["joint"].columns, updates["refresh"].columns) == (3, 8)
    told = updates_of(read_settings({"columns": 5, "policy": "delayed"}), hybrid_like)
    assert {(u.columns, u.policy.name) for u in told.values()} == {(5, "delayed")}


@pytest.mark.parametrize(
    ("until", "text", "left"),
    [
        (["\n"], "a b\nc", "a b"),
        (["zz", "c", "b"], "a b c", "a "),
        ("b", "a b c", "a "),
        (["zz"], "a b c", "a b c"),
        ([], "a b c", "a b c"),
        ([""], "a b c", "a b c"),
    ],
)
def test_a_text_ends_before_its_first_stop_string(until, text, left):
    assert read_wanted({"until": until}, SETTINGS).cut(text) == left


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_beams": 4}, "num_beams=4 has no counterpart"),
        ({"top_k": 50}, "--gen_kwargs top_k=0"),
        ({"untl": ["x"]}, "did you mean 'until'"),
    ],
)
def test_a_generation_argument_without_counterpart_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        read_wanted(given, SETTINGS)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"k": "four"}, "k='four' is no value for k"),
        ({"cache": "suffix"}, "cache='suffix'"),
        ({"method": "refesh"}, "did you mean 'refresh'"),
        ({"method": "refresh", "treshold": 0.5}, "choose one of step_bound"),
        ({"method": "marginal", "treshold": 0.5}, "has k alone"),
        ({"method": "threshold", "treshold": 0.5}, "did you mean 'threshold'"),
        ({"method": "threshold", "threshold": "high"}, "is a number"),
        ({"method": "auto", "budgt": 0.1}, "did you mean 'budget'"),
        ({"batch_size": "auto"}, "batch_size='auto'"),
    ],
)
def test_a_model_argument_without_meaning_is_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        read_settings(given)


def test_the_harness_reads_none_as_nothing_and_it_stays_a_name():
    assert read_settings({"sampler": None, "update": None}).sampler == "none"
    assert read_settings({"sampler": None, "update": None}).update == "none"
