"""An evaluation's items together give what one call for everything gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jointsampler import Refresh, Trajectories, UserError, block_kl, generate
from jointsampler.corpus.sample import SampleSettings
from jointsampler.decoding.methods import METHODS
from jointsampler.evaluation.collect import Collected
from jointsampler.evaluation.cost import UpdateCost
from jointsampler.evaluation.differences import differences, paired
from jointsampler.evaluation.items import (
    Evaluator,
    KLItem,
    SampleItem,
    identities,
    kl_keys,
    kl_temperature,
    list_items,
    method_pairs,
)
from jointsampler.evaluation.pairing import figures
from tests.report.test_report import made

PAIRS = method_pairs(["refresh", "joint", "lossless"], [1, 4])
COSTS = {"refresh": UpdateCost(1.0, 0.5, 0.5, 16, 8), "joint": UpdateCost(1.0, 0.1, 0.1, 16, 8)}


@pytest.fixture(scope="module")
def held_out(tiny):
    out = generate(tiny, method="sequential", num_samples=8, max_new_tokens=8, seed=5)
    return Trajectories.from_generation(out, 5, tiny)


@pytest.fixture(scope="module")
def evaluator(tiny, trained_like, held_out):
    settings = SampleSettings(5, 8, temperature=0.7)
    return Evaluator(tiny, trained_like, Refresh(4), None, settings, held_out)


@pytest.fixture(scope="module")
def done(evaluator):
    items = list_items(PAIRS, 6, 2, 4, 8)
    return [(item, evaluator.do(item, PAIRS)) for item in items]


@pytest.fixture(scope="module")
def results(done):
    return {(r.method, r.k): r for r in Collected(done).results(PAIRS, COSTS)}


def test_marginal_is_always_compared_and_sequential_comes_first():
    assert PAIRS == (
        ("sequential", 1), ("marginal", 4), ("refresh", 4), ("joint", 4), ("lossless", 4),
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(METHODS))
def test_any_method_that_takes_k_is_allowed(name):
    if METHODS[name].has_k or name == "sequential":
        assert method_pairs([name], [2])
    else:
        with pytest.raises(UserError, match="takes no k"):
            method_pairs([name], [2])


def test_an_unknown_method_is_named():
    with pytest.raises(UserError, match="did you mean 'refresh'"):
        method_pairs(["refesh"], [2])


def test_every_sample_and_every_row_is_in_one_item():
    items = list_items(PAIRS, 6, 2, 4, 40)
    drawn = [i for item in items if isinstance(item, SampleItem)
             for i in [(item.method, item.k, item.generation, n) for n in range(item.begin, item.end)]]  # fmt: skip
    assert len(drawn) == len(set(drawn)) == 6 * 2 * (1 + len(PAIRS))  # and the reference
    rows = [n for item in items if isinstance(item, KLItem) for n in range(item.begin, item.end)]
    assert rows == list(range(40))


def test_the_order_of_the_items_does_not_matter(done):
    forth, back = (Collected(x).results(PAIRS, COSTS) for x in (done, done[::-1]))
    assert [r.kl for r in forth] == [r.kl for r in back]
    assert [r.tokens_per_row for r in forth] == [r.tokens_per_row for r in back]


@pytest.mark.parametrize("path", ["recorded", "own"])
@pytest.mark.parametrize("method", ["refresh", "joint"])
def test_block_kl_is_the_librarys_at_the_corpus_temperature(
    tiny, trained_like, held_out, results, method, path
):
    update = trained_like if method == "joint" else Refresh(4)
    direct = block_kl(tiny, update, held_out, k=4, path=path, temperature=0.7)
    found = results[method, 4].kl[path]
    assert found.nats_per_round.value == pytest.approx(direct.update.value, rel=1e-4)
    assert found.nats_per_token.value == pytest.approx(direct.update.value / 4, rel=1e-4)
    assert found.captured.value == pytest.approx(direct.captured.value, rel=1e-3, abs=1e-4)
    assert results["marginal", 4].kl[path].nats_per_round.value == pytest.approx(
        direct.marginal.value, rel=1e-4
    )


@pytest.mark.parametrize("path", ["recorded", "own"])
def test_the_breakdown_and_the_units_hold_the_nats_of_the_row(results, path):
    for method in ("marginal", "refresh", "joint"):
        row = results[method, 4]
        nats = row.kl[path].nats_per_token
        units = row.units["nats_per_token" if path == "recorded" else "nats_per_token_own"]
        assert sum(units.over) / sum(units.under) == pytest.approx(nats.value, rel=1e-4)
        for bins in row.kl[path].breakdown.values():
            total = sum(b.nats.value * b.reveals for b in bins)
            assert total == pytest.approx(sum(units.over), rel=1e-4)
        steps = row.kl[path].breakdown["step"]
        assert [b.low for b in steps] == [1, 2, 3]
        assert [b.captured is None for b in steps] == [method == "marginal"] * 3


def test_rows_are_compared_in_pairs_whatever_item_their_units_came_from(done):
    forth, back = (differences(Collected(x).results(PAIRS, COSTS)) for x in (done, done[::-1]))
    assert forth == back
    pairs = {(d.row, d.against) for d in forth if d.metric == "nats_per_token"}
    assert ("joint, k = 4", "refresh, k = 4") in pairs and len(pairs) == 3


def test_what_the_units_are_is_told_by_prompts_seeds_and_trajectories(held_out):
    settings = SampleSettings(5, 8, temperature=0.7)
    same, other_seed, other_rows, other_judge = (
        identities(changed, rows, 6, 2, (judge, None))
        for changed, rows, judge in (
            (settings, held_out, "smollm2"),
            (replace(settings, seed=6), held_out, "/cache/smollm2"),
            (settings, held_out.select(range(4)), "/cache/smollm2"),
            (settings, held_out, "other"),
        )
    )
    assert set(same) == {"nats_per_token", "nats_per_token_own", "nll"}
    assert [other_seed[m] == same[m] for m in ("nats_per_token", "nll")] == [True, False]
    assert [other_rows[m] == same[m] for m in ("nats_per_token", "nll")] == [False, True]
    assert [other_judge[m] == same[m] for m in ("nats_per_token", "nll")] == [True, False]


@pytest.mark.parametrize("name", ["captured", "captured_own", "nats_per_token_own"])
def test_a_figure_is_made_of_its_units(results, name):
    whole = made(judge=False, methods=[row.model_dump() for row in results.values()])
    for method in ("refresh", "joint"):
        figure = figures(whole, results[method, 4])[name]
        assert paired(figure.units, figure.of).value == pytest.approx(figure.value.value, rel=1e-4)


def test_every_row_has_its_diversity_over_the_generation_seeds(results):
    for row in results.values():
        assert set(row.distinct) == {1, 2, 4} and row.self_bleu.n == 2
        assert 0 < row.distinct[1].value <= row.distinct[2].value <= 1


def test_sequential_and_verified_samples_are_exact_and_not_metered(results):
    assert {key[0] for key in kl_keys(PAIRS)} == {"refresh", "joint"}
    for method, k in (("sequential", 1), ("lossless", 4)):
        assert {f.nats_per_token.value for f in results[method, k].kl.values()} == {0.0}


def test_a_greedy_corpus_is_metered_at_temperature_one():
    assert (kl_temperature(0.0), kl_temperature(0.1), kl_temperature(1.0)) == (1.0, 0.1, 1.0)


def test_costs_count_rows_and_updates_at_their_measured_ratio(results):
    refresh, joint = results["refresh", 4], results["joint", 4]
    tokens = refresh.tokens_per_row * refresh.teacher_rows
    cost = refresh.teacher_rows + 0.5 * refresh.update_passes
    assert refresh.tokens_per_cost == pytest.approx(tokens / cost)
    assert results["marginal", 4].tokens_per_cost == results["marginal", 4].tokens_per_row
    assert joint.update_passes > 0 and results["marginal", 4].update_passes == 0
    lossless = results["lossless", 4]
    assert lossless.teacher_rows > lossless.teacher_passes  # every verified prefix counts
    assert sum(lossless.round_ends) == pytest.approx(1)
    assert joint.round_ends is None


def test_tokens_behind_the_end_are_never_counted(tiny, trained_like, held_out):
    """Task answers have a few tokens before their end, whatever the length of the response."""
    prompt = "copy: ann bob ->"
    settings = SampleSettings(1, 16, prompts=(prompt,))
    evaluator = Evaluator(tiny, trained_like, Refresh(), None, settings, held_out)
    samples = evaluator.samples(SampleItem("sequential", 1, 0, 0, 4))
    lengths = [len(tiny.tokenizer.encode(text, add_special_tokens=False)) for text in samples.texts]
    assert samples.tokens == sum(lengths) < 4 * 16


def test_a_judge_adds_nll_and_mauve(tiny, trained_like, held_out, judge_folder):
    from jointsampler.evaluation.judges import Judge

    pairs = method_pairs([], [4])
    evaluator = Evaluator(
        tiny,
        trained_like,
        Refresh(),
        Judge(str(judge_folder), "cpu"),
        SampleSettings(5, 8),
        held_out,
    )
    items = [item for item in list_items(pairs, 20, 2, 10, 8) if isinstance(item, SampleItem)]
    collected = Collected((item, evaluator.do(item, pairs)) for item in items)
    sequential, marginal = collected.results(pairs, {}, kmeans_seeds=2)
    assert sequential.nll.n == 40 and sequential.mauve.n == marginal.mauve.n == 2
    assert 0 <= marginal.mauve.low <= marginal.mauve.value <= marginal.mauve.high <= 1
    assert np.isfinite(marginal.nll.value)
    examples = collected.examples(pairs, shown=3)
    assert examples.columns == ["sequential", "marginal, k = 4"]
    assert [len(texts) for texts in examples.texts] == [3, 3]


def test_the_samples_that_the_report_shows_come_with_their_unmasking(tiny, trained_like, held_out):
    settings = SampleSettings(5, 8)
    shows = Evaluator(tiny, trained_like, Refresh(4), None, settings, held_out, shown=3)
    pairs = method_pairs(["marginal"], [4])
    items = [item for item in list_items(pairs, 4, 2, 2, 0) if isinstance(item, SampleItem)]
    done = [(item, shows.do(item, pairs)) for item in items]
    examples = Collected(done).examples(pairs, 3)
    assert examples.columns == ["sequential", "marginal, k = 4"]
    for texts, records in zip(examples.texts, examples.unmaskings, strict=True):
        assert len(records) == 3  # of two items
        assert ["".join(r.tokens[: r.end]) for r in records] == texts
    assert [r.rounds for r in examples.unmaskings[1]] == [[4, 4]] * 3
    # Nothing is kept of the reference, of other generation seeds and of later samples.
    kept = {item: len(samples.unmaskings) for item, samples in done}
    assert sum(kept.values()) == 2 * 3 and max(kept.values()) == 2


def test_examples_without_records_are_texts_alone(done):
    assert Collected(done).examples(PAIRS, 2).unmaskings == []
