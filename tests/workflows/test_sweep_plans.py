"""Sweeps and forecasts are checked and printed before anything starts."""

from __future__ import annotations

import pytest
from ray import tune

from jointsampler import UserError
from jointsampler.config import load_config
from workflows import corpus, estimate, report
from workflows.forecast import Devices
from workflows.sweep import launch
from workflows.sweep import plan as sweep

SPACE = "sweep.space={sampler.width: [32, 64], train.k_max: [2, 4]}"


def plan(tmp_path, *overrides):
    return sweep.plan(load_config(None, [SPACE, "evaluate.judge=none", *overrides]), tmp_path)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{}", "sweep.space is empty"),
        ("{sampler.widht: [32]}", "did you mean 'sampler.width'"),
        ("{sampler.width: [33]}", "multiple of the head size"),
        ("{corpus.rows: [8]}", "only keys of sampler and train are swept"),
        ("{train.k_max: [64]}", r"train.k_max=64 exceeds corpus.max_new_tokens"),
        ("{train.lr: {low: 0.1, high: 0.2}}", "is a range, and a grid needs values"),
        ("{sampler.width: []}", "holds no values"),
        ("{train.lr: [-1]}", "train.lr"),
        ("{train.steps: [10, 20]}", "sweep.steps is the length of a trial"),
        ("{train.workers: [1, 2]}", "sweep.workers is the number of workers"),
    ],
)
def test_a_value_that_cannot_be_is_refused_before_any_trial(tmp_path, space, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, f"sweep.space={space}")


def test_trials_have_folders_of_their_own_and_the_best_is_trained_to_the_end(tmp_path):
    made = plan(tmp_path, "sweep.steps=7", "train.steps=99")
    a, b = made.trial({"sampler.width": 32}), made.trial({"sampler.width": 64})
    assert a.folder != b.folder and a.settings.steps == 7 and a.corpus == b.corpus
    best = sweep.chosen(load_config(None, ["train.steps=99"]), {"best": {"sampler.width": 64}})
    assert (best.sampler.width, best.train.steps) == (64, 99)


def test_variants_are_tried_at_every_point_of_the_space(tmp_path):
    made = plan(
        tmp_path,
        "sweep.space={train.seed: [0, 1]}",
        "sweep.variants={base: {}, narrow: {sampler.width: 32, train.near: 1}}",
    )
    assert sweep.count(made.settings) == 4
    assert launch.search_space(made.settings)["variant"] == {"grid_search": ["base", "narrow"]}
    narrow = made.trial({"variant": "narrow", "train.seed": 1})
    assert (narrow.sampler.width, narrow.settings.near) == (32, 1)
    assert narrow.seed == made.trial({"variant": "base", "train.seed": 0}).seed + 1
    # The training to the end has the best variant's own values.
    best = sweep.resolved(made.settings, {"variant": "narrow", "train.seed": 1})
    assert sweep.chosen(load_config(), {"best": best}).sampler.width == 32


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{a: {sampler.widht: 32}}", "did you mean 'sampler.width'"),
        ("{a: {corpus.rows: 8}}", "sweep.variants.a cannot hold 'corpus.rows'"),
        (
            "{a: {sampler.width: 32}}",
            "sweep.variants.a sets sampler.width, which sweep.space varies",
        ),
        ("{a: {train.rows: 9999}}", "train.rows=9999 exceeds the corpus's training rows"),
        ("{a: {}, b: {sampler.depth: 0}}", "Two trials of the sweep are the same training"),
        ("{a: {train.zero_stage: 3}}", "set train.zero_stage to 2 or less"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_before_any_trial(tmp_path, variants, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, f"sweep.variants={variants}")


def test_values_that_fit_only_together_are_taken_together(tmp_path):
    both = "sweep.space={train.optimizer: [adamw], train.zero_stage: [2, 3]}"
    assert sweep.count(plan(tmp_path, both).settings) == 2


def test_a_random_search_refuses_a_value_only_if_no_other_goes_with_it(tmp_path):
    both = "sweep.space={train.optimizer: [muon, adamw], train.zero_stage: [2, 3]}"
    assert plan(tmp_path, both, "sweep.search=random")
    with pytest.raises(UserError, match=r"set train\.zero_stage to 2 or less"):
        plan(tmp_path, both.replace("[muon, adamw]", "[muon]"), "sweep.search=random")


def test_a_random_search_draws_the_same_trials_again_and_others_by_another_seed(tmp_path):
    tune.register_trainable("nothing", lambda values: None)

    def drawn(seed: int) -> list[dict]:
        space = "sweep.space={train.lr: {low: 0.001, high: 0.1, log: true}}"
        made = plan(tmp_path, space, "sweep.search=random", f"run.seed={seed}")
        search = launch.tune_config(made, at_once=2).search_alg
        trials = {"config": launch.search_space(made.settings), "run": "nothing", "num_samples": 2}
        search.add_configurations({"sweep": trials})
        return [search.next_trial().config for _ in range(2)]

    assert drawn(0) == drawn(0) != drawn(1)


def test_after_a_sweep_the_corpus_is_still_the_one_it_was_on(tmp_path):
    config = load_config(None, [SPACE, "train.k_max=4", "evaluate.ks=[1, 2]"])
    best = sweep.chosen(config, {"best": {"sampler.width": 64, "train.k_max": 2}})
    made = report.plan(best, tmp_path).evaluate.train
    assert made.settings.k_max == 2
    assert made.corpus.key == corpus.plan(config, tmp_path).key


def test_an_objective_is_lower_for_what_buys_more(tmp_path):
    settings = plan(tmp_path).settings
    good = {"cost_ratio": 0.2, "nats_k2": 0.1, "nats_k4": 0.2, "captured_k4": 0.5}
    bad = good | {"nats_k2": 0.2, "nats_k4": 0.4}
    slow = good | {"cost_ratio": 0.4}
    other = settings.model_copy(update={"objective": "speed_at_nats"})
    for s in (settings, other):
        assert launch.objective(good, s) < launch.objective(bad, s)
        assert launch.objective(good, s) < launch.objective(slow, s)


def test_the_forecast_of_a_pipeline_with_a_sweep_counts_its_trials(tmp_path):
    config = load_config(None, [SPACE, "evaluate.judge=none", "sweep.steps=7"])
    plans = report.plan(config, tmp_path), sweep.plan(config, tmp_path)
    lines = estimate.table(*plans, Devices.of(config)).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == [
        "corpus",
        "sweep",
        "train",
        "evaluate",
        "all",
    ]
    assert "4 x 7 steps" in lines[3]


def test_a_projection_shows_that_loading_the_weights_saturates_first(tmp_path):
    slow = ["estimate.storage_bytes_per_second=1.0e+6", "estimate.gpu_flops=1.0e+9"]
    config = load_config(None, slow)
    made = corpus.plan(config, tmp_path)
    rows = [line.split() for line in estimate.projection(made, config.estimate).splitlines()[2:]]
    assert [row[0] for row in rows] == ["1", "8", "64", "512"]
    short = config.estimate.model_copy(update={"response_share": 0.75})
    sooner = estimate.projection(made, short).splitlines()[2].split()
    assert float(sooner[1]) == pytest.approx(0.75 * float(rows[0][1]), rel=0.05)
    efficiency = [float(row[-1]) for row in rows]
    assert efficiency == sorted(efficiency, reverse=True) and efficiency[0] > 2 * efficiency[-1]
