"""Plans fit the machine, and no plan overwrites the outputs of another."""

from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, UserError
from jointsampler.config import load_config
from workflows import corpus
from workflows.cluster import Pool
from workflows.train.launch import fitting_pool, take
from workflows.train.plan import plan, training_rows


@pytest.mark.parametrize("devices", range(1, 17))
def test_training_takes_every_device_whether_or_not_their_number_divides_the_batch(devices):
    """Six GPUs with a batch of 64 are six workers."""
    settings = load_config(None, ["train.batch_size=64"]).train
    assert fitting_pool(Pool(devices, 0, 1), settings).size == devices


def test_no_worker_is_left_without_a_state_for_each_of_its_parts():
    settings = load_config(None, ["train.batch_size=32", "train.accumulate=3"]).train
    assert fitting_pool(Pool(64, 0, 1), settings).size == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["workers=6", "batch_size=5"],
            r"train\.workers=6 with .* needs at least 6 states per step",
        ),
        (
            ["workers=6", "accumulate=6"],
            r"needs at least 36 states per step, not train\.batch_size=32",
        ),
        (["accumulate=33"], r"^train\.accumulate=33 needs at least 33 states per step"),
        (["min_workers=1"], r"train\.min_workers=1 needs train\.workers"),
        (["min_workers=3", "workers=2"], "at least as many, not 2"),
        (
            ["min_workers=2", "workers=4", "optimizer=adamw", "zero_stage=3"],
            r"train\.min_workers lets the number of workers change",
        ),
        (["zero_stage=3"], r"train\.optimizer=muon needs whole matrices"),
    ],
)
def test_what_the_workers_could_not_do_is_refused_in_planning(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        plan(load_config(None, [f"train.{override}" for override in overrides]), tmp_path)


@pytest.mark.parametrize("most", range(2, 17))
def test_any_number_of_workers_between_the_fewest_and_the_most_is_planned(tmp_path, most):
    elastic = [f"train.workers={most}", "train.min_workers=2", "train.batch_size=64"]
    assert plan(load_config(None, [*elastic, "train.accumulate=2"]), tmp_path)


def test_a_round_trains_on_the_rows_it_names_and_on_none_that_the_corpus_lacks():
    def rows(*overrides):
        return training_rows(load_config(None, [f"train.{o}" for o in overrides]).train, 100)

    assert rows() == range(100)
    assert rows("rows=40") == range(40)
    assert rows("first_row=30") == range(30, 100)
    assert rows("first_row=30", "rows=40") == range(30, 70)
    for wrong in (["rows=101"], ["first_row=100"], ["first_row=61", "rows=40"]):
        with pytest.raises(
            UserError, match=r"exceeds the corpus's training rows, corpus\.rows=100"
        ):
            rows(*wrong)


def test_a_corpus_of_other_settings_is_kept_and_named(tmp_path):
    plans = [corpus.plan(load_config(None, [f"run.seed={seed}"]), tmp_path) for seed in (0, 1)]
    corpus.claim(plans[0])
    shard = plans[0].folder / plans[0].name(0)
    shard.write_bytes(b"rows")
    with pytest.raises(UserError, match="holds a corpus of other settings"):
        corpus.run(plans[1])
    assert shard.read_bytes() == b"rows"


def test_a_sampler_of_another_teacher_may_start_a_training_but_is_not_taken_as_it_is(tmp_path):
    other = JointSampler.from_pretrained("tiny")
    other.config.teacher_fingerprint = "another"
    other.save_pretrained(tmp_path / "other")
    settings = [
        f"train.warm_start={tmp_path / 'other'}",
        "sampler.depth=3",
        "sampler.mlp=1024",
    ]
    assert plan(load_config(None, settings), tmp_path)
    with pytest.raises(UserError, match="This sampler was distilled from teacher"):
        plan(load_config(None, [*settings, "train.steps=0"]), tmp_path)


def test_the_number_of_workers_makes_no_other_training_but_a_step_does(tmp_path):
    def key(*overrides):
        return plan(load_config(None, overrides), tmp_path).key

    assert key("train.workers=2", "train.report_every=7") == key()
    assert key("train.steps=399") != key() != key("train.seed=1")


def test_without_steps_the_sampler_to_start_from_is_taken_as_it_is(tmp_path):
    as_it_is = [
        "train.steps=0",
        "train.warm_start=tiny",
        "sampler.depth=3",
        "sampler.mlp=1024",
    ]
    made = plan(load_config(None, as_it_is), tmp_path)
    take(made)
    assert made.intact()
    taken = JointSampler.from_pretrained(made.folder).state_dict()
    for name, value in JointSampler.from_pretrained("tiny").state_dict().items():
        assert torch.equal(taken[name], value)
    take(plan(load_config(None, [*as_it_is, f"train.warm_start={made.folder}"]), tmp_path))
    assert made.intact()  # the folder that it replaces
