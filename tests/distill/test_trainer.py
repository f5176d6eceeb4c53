"""A training without Ray or DeepSpeed reports, validates, keeps its best weights and can be resumed."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch

from jointsampler import JointSampler, Trajectories, UserError, block_kl, generate
from jointsampler.config import TrainConfig
from jointsampler.distill import TeacherStates
from jointsampler.distill.parts import fitting_parts
from jointsampler.distill.trainer import (
    Trainer,
    TrainState,
    distill_settings,
    learning_rate_factor,
)
from jointsampler.distill.validate import Place, Validator
from tests.support.small_device import SmallDevice


class PlainEngine:
    """One process and no scheduler: the smallest engine that a trainer can use."""

    def __init__(self, sampler: JointSampler, parts: int = 1, optimizer=torch.optim.AdamW):
        self.module, self.parts, self.calls = sampler, parts, 0
        self.optimizer = optimizer(sampler.parameters(), lr=2e-3)

    def __call__(self, *args):
        return self.module(*args)

    def precision(self):
        return nullcontext()

    def backward(self, loss):
        (loss / self.parts).backward()

    def step(self):
        self.calls += 1
        if self.calls % self.parts == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def weights(self):
        return copy.deepcopy(self.module.state_dict())


@pytest.fixture(scope="module")
def rows(tiny):
    out = generate(tiny, method="sequential", k=1, num_samples=24, max_new_tokens=8, seed=2)
    return Trajectories.from_generation(out, 2, tiny)


def trainer(tiny, rows, state=None, engine=None, depth=0, place=None, **settings) -> Trainer:
    defaults = dict(
        steps=6, batch_size=4, k_max=3, report_every=2, validate_every=3, save_every=4,
        validate_k=[2], precision="float32",
    )  # fmt: skip
    config = TrainConfig(**(defaults | settings))
    sampler = JointSampler.for_teacher(tiny, width=32, depth=depth, seed=1, k_max=config.k_max)
    engine = engine or PlainEngine(sampler, parts=config.accumulate)
    states = TeacherStates(sampler.reading(tiny), rows.select(range(16)), config.cache_gib)
    states.fill(range(16))
    validator = Validator(
        tiny, rows.select(range(16, 24)), config.validate_k, 1.0, "entropy", place
    )
    return Trainer(states, engine, copy.deepcopy(sampler).eval(), validator, config, 7, state)


def emitted(made: Trainer) -> list[tuple[dict, bool]]:
    found = []
    made.run(lambda metrics, due: found.append((metrics, due)))
    return found


def test_reports_validations_and_checkpoints_come_when_they_are_due_and_at_the_end(tiny, rows):
    found = emitted(trainer(tiny, rows))
    assert [metrics["step"] for metrics, _ in found] == [2, 3, 4, 6]
    assert [metrics["step"] for metrics, _ in found if "loss" in metrics] == [2, 4, 6]
    assert [metrics["step"] for metrics, _ in found if "captured_k2" in metrics] == [3, 6]
    assert [metrics["step"] for metrics, due in found if due] == [4, 6]
    assert all(math.isfinite(value) for metrics, _ in found for value in metrics.values())
    last = found[-1][0]
    assert last["best_captured_k2"] == max(m.get("captured_k2", -math.inf) for m, _ in found)
    assert last["workers"] == 1 and last["seconds_left"] == 0


@pytest.mark.parametrize("depth", [0, 3])
def test_training_reduces_the_loss(tiny, rows, depth):
    settings = dict(
        steps=60, batch_size=16, report_every=20, validate_every=30, cache_gib=0.1, depth=depth
    )
    found = [metrics for metrics, _ in emitted(trainer(tiny, rows, **settings))]
    losses = [metrics["loss"] for metrics in found if "loss" in metrics]
    assert losses[-1] < 0.95 * losses[0]


def test_the_sampler_holds_the_best_weights_when_a_checkpoint_is_due(tiny, rows):
    made = trainer(tiny, rows, steps=4, validate_every=1, save_every=4)
    captured, seen = iter([0.1, 0.3, 0.2, 0.0]), []

    def validator(sampler: JointSampler) -> dict[str, float]:
        seen.append(copy.deepcopy(sampler.state_dict()))
        return {"captured_k2": next(captured)}

    made.validator = validator
    emitted(made)
    assert made.state.best_step == 2
    for name, value in made.sampler.state_dict().items():
        assert torch.equal(value, seen[1][name])
    assert not torch.equal(seen[1]["project.weight"], seen[3]["project.weight"])


def test_a_validation_is_the_block_kl_of_the_held_out_rows(tiny, rows, trained_like):
    held_out = rows.select(range(16, 24))
    metrics = Validator(tiny, held_out, [2, 4], 0.7, "entropy")(trained_like)
    for k in (2, 4):
        direct = block_kl(tiny, trained_like, held_out, k, temperature=0.7)
        assert metrics[f"captured_k{k}"] == pytest.approx(direct.captured.value, abs=1e-6)
        assert metrics[f"nats_k{k}"] == pytest.approx(direct.update.value / k, rel=1e-6)


def test_later_validations_compute_no_teacher_state_of_the_recorded_path_again(
    tiny, rows, trained_like, monkeypatch
):
    validator, calls = Validator(tiny, rows.select(range(16, 24)), [2, 4], 1.0, "entropy"), []
    hidden = type(tiny).hidden

    def counted(self, ids, *args, **kwargs):
        calls.append(len(ids))
        return hidden(self, ids, *args, **kwargs)

    monkeypatch.setattr(type(tiny), "hidden", counted)
    first = validator(trained_like)
    of_first = len(calls)
    assert validator(trained_like) == first
    # Only the full passes that begin rounds remain: 8 / 2 of k = 2 and 8 / 4 of k = 4.
    assert len(calls) - of_first == 6 < of_first


def test_workers_measure_each_held_out_row_once(tiny, rows):
    held_out = rows.select(range(16, 24))
    shares = [Validator(tiny, held_out, [2], 1.0, "entropy", Place(r, 3)).rows for r in range(3)]
    assert sorted(i for share in shares for i in share.row_ids.tolist()) == list(range(16, 24))


def test_patience_ends_a_training_that_no_longer_improves(tiny, rows):
    made = trainer(tiny, rows, steps=50, validate_every=1, patience=2, report_every=50)
    captured = iter([0.1, 0.2, 0.1, 0.15])
    made.validator = lambda sampler: {"captured_k2": next(captured)}
    found = emitted(made)
    assert (made.state.waited, made.state.best_step, made.state.step) == (2, 2, 4)
    assert found[-1][1]  # with a checkpoint
    assert emitted(trainer(tiny, rows, made.state, patience=2)) == []  # and it stays ended


@pytest.mark.parametrize("depth", [0, 2])
def test_a_training_that_goes_on_ends_as_one_that_was_never_stopped(tiny, rows, depth):
    settings = dict(cache_gib=0.1, deeper=0.5, depth=depth)
    whole = trainer(tiny, rows, **settings)
    emitted(whole)
    begun = trainer(tiny, rows, **settings)
    for _ in range(4):
        begun.make_step()
    resumed = trainer(tiny, rows, TrainState(step=4), begun.engine, **settings)
    emitted(resumed)
    for name, value in whole.engine.weights().items():
        assert torch.equal(value, resumed.engine.weights()[name]), name


@pytest.mark.parametrize("depth", [0, 2])
def test_a_batch_in_parts_takes_the_same_step(tiny, rows, depth):
    weights = []
    for parts in (1, 2):
        sampler = JointSampler.for_teacher(tiny, width=32, depth=depth, seed=1, k_max=2)
        engine = PlainEngine(sampler, parts, torch.optim.SGD)
        settings = dict(batch_size=8, accumulate=parts, k_max=2, depth=depth)
        made = trainer(tiny, rows, engine=engine, **settings)
        made.make_step()
        assert engine.calls == parts
        weights.append(engine.weights())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("depth", [0, 2])
def test_a_step_on_a_small_device_is_that_of_a_large_one(tiny, rows, depth, tmp_path, monkeypatch):
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path))
    weights = []
    for teacher in (tiny, SmallDevice(tiny, 5)):
        sampler = JointSampler.for_teacher(tiny, width=32, depth=depth, seed=1, k_max=2)
        config = TrainConfig(batch_size=8, k_max=2)
        states = TeacherStates(sampler.reading(teacher), rows)
        distill = distill_settings(config)
        parts = fitting_parts(states, sampler, config, distill, Place(), nullcontext)
        assert parts == (1 if teacher is tiny else 4)
        engine = PlainEngine(sampler, parts, torch.optim.SGD)
        config = config.model_copy(update={"accumulate": parts})
        validator = Validator(teacher, rows, [2], 1.0, "entropy")
        Trainer(states, engine, copy.deepcopy(sampler), validator, config, 7).make_step()
        weights.append(engine.weights())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("what", ["loss", "block KL"])
def test_a_training_that_diverges_is_one_sentence(tiny, rows, what):
    made = trainer(tiny, rows, report_every=1 if what == "loss" else 6, validate_every=2)
    with torch.no_grad():
        made.engine.module.project.weight.fill_(torch.nan)
    with pytest.raises(UserError, match=f"Training diverged: the {what} is .*Lower train.lr"):
        emitted(made)


def test_the_learning_rate_warms_up_stays_and_cools_down_to_nothing():
    settings = TrainConfig(steps=100, warmup_steps=9, cooldown=0.5)
    factors = [learning_rate_factor(step, settings) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[50] == 1
    assert factors[75] == pytest.approx(0.5) and factors[100] == 0
    assert learning_rate_factor(99, TrainConfig(steps=100, cooldown=0)) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("depth", [0, 2])
def test_the_mean_over_workers_of_uneven_shares_is_the_step_of_one_worker(
    tiny, rows, depth, accumulate
):
    """Engines average over workers, so the mean of what five workers' steps do must be one worker's step."""

    def moved(rank: int, world: int) -> dict[str, torch.Tensor]:
        sampler = JointSampler.for_teacher(tiny, width=32, depth=depth, seed=1, k_max=3)
        before = copy.deepcopy(sampler.state_dict())
        engine = PlainEngine(sampler, accumulate, torch.optim.SGD)
        settings = dict(batch_size=13, accumulate=accumulate, depth=depth)
        made = trainer(tiny, rows, engine=engine, place=Place(rank, world), **settings)
        made.make_step()
        losses.append(made.recent.means()["loss"])
        return {name: value - before[name] for name, value in engine.weights().items()}

    losses: list[float] = []
    alone = moved(0, 1)
    five = [moved(rank, 5) for rank in range(5)]
    for name, value in alone.items():
        mean = sum(one[name] for one in five) / 5
        torch.testing.assert_close(mean, value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))
    assert sum(losses[1:]) == pytest.approx(losses[0], rel=1e-4)
