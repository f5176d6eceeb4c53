"""A training: its steps, when it validates and reports, the best weights so far, when it ends.

:class:`Trainer` needs an engine that differentiates and steps, and a callback that
takes the metrics. Where workers run, how the engine is built and how checkpoints are
written is left to ``workflows/train``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..config.schema import TrainConfig
from ..errors import UserError
from ..sampler import JointSampler
from .batch import draw_batch
from .clock import Clock, Recent
from .positions import DistillSettings
from .step import distill_step
from .targets import TeacherStates
from .validate import Validator, gathered

Weights = dict[str, Tensor]
Metrics = dict[str, float]


class Engine(Protocol):
    """The sampler in training, with its optimizer. Calling the engine calls the sampler."""

    module: JointSampler

    def __call__(self, *args: Any) -> Tensor: ...

    def precision(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Differentiate; gradients are averaged over the parts of a step and over the workers."""

    def step(self) -> None:
        """Count a part; the last part of a step moves the weights."""

    def weights(self) -> Weights:
        """A copy of all weights on the CPU; every worker calls it at the same time."""


@dataclass
class TrainState:
    """Where a training is, and the best weights that it has had; part of every checkpoint."""

    step: int = 0  # steps made
    best: float = -math.inf  # mean captured dependency over the validated k
    best_step: int = 0
    best_metrics: Metrics | None = None
    best_weights: Weights | None = None
    waited: int = 0  # validations since the best one

    def take(self, metrics: Metrics, weights: Weights) -> None:
        """Keep ``weights`` if their validation is the best so far."""
        captured = [value for name, value in metrics.items() if name.startswith("captured")]
        score = sum(captured) / len(captured)
        self.waited += 1
        if score > self.best:
            self.best, self.best_step, self.waited = score, self.step, 0
            self.best_metrics, self.best_weights = metrics, weights


def distill_settings(settings: TrainConfig) -> DistillSettings:
    return DistillSettings(
        k_max=settings.k_max,
        deeper=settings.deeper,
        depth_decay=settings.depth_decay,
        near=settings.near,
        far=settings.far,
    )


def learning_rate_factor(step: int, settings: TrainConfig) -> float:
    """Factor on lr: warm-up, constant, then linear to 0 over the last ``cooldown`` of the steps."""
    warm = (step + 1) / (settings.warmup_steps + 1)
    cool = (settings.steps - step) / max(1.0, settings.cooldown * settings.steps)
    return max(0.0, min(1.0, warm, cool))


class Trainer:
    """Makes steps from ``state.step`` on; reports, validates and saves when due.

    ``sampler`` is a copy outside the engine, which validations and checkpoints use.
    """

    def __init__(
        self,
        states: TeacherStates,
        engine: Engine,
        sampler: JointSampler,
        validator: Validator,
        settings: TrainConfig,
        seed: int,
        state: TrainState | None = None,
    ):
        self.states, self.engine, self.sampler = states, engine, sampler
        self.validator, self.settings, self.seed = validator, settings, seed
        self.place = validator.place
        self.state = state or TrainState()
        self.distill = distill_settings(settings)
        self.reveals = states.trajectories.reveals
        self.recent, self.clock = Recent(), Clock(states, self.state.step)

    @property
    def out_of_patience(self) -> bool:
        return bool(self.settings.patience) and self.state.waited >= self.settings.patience

    @property
    def finished(self) -> bool:
        return self.state.step >= self.settings.steps or self.out_of_patience

    def run(self, emit: Callable[[Metrics, bool], None]) -> None:
        """Train to the end.

        ``emit``: (metrics, whether a checkpoint is due), after every step that has any;
        ``sampler`` then holds the best weights if a checkpoint is due. Raises UserError
        where the training diverges.
        """
        while not self.finished:
            self.make_step()
            metrics = self.report() | self.validation()
            due = self.finished or self.state.step % self.settings.save_every == 0
            if due:
                metrics |= self.best()
            if metrics:
                emit({**metrics, "step": self.state.step}, due)

    def make_step(self) -> None:
        """One optimizer step; this worker computes its share of the states.

        The states and their weights do not depend on the workers. The engine takes means,
        so a loss enters times the number of terms: the mean then is the sum over the
        batch, however unevenly it is shared.
        """
        settings, place = self.settings, self.place
        batch = draw_batch(
            self.reveals,
            self.sampler.config.depth > 0,
            self.distill,
            settings.batch_size,
            self.seed,
            self.state.step,
        )
        own = batch.divided(place.world)[place.rank]
        for part in own.divided(settings.accumulate):
            with self.engine.precision():
                loss, metrics = distill_step(
                    self.states, self.engine, part, self.distill, self.seed
                )
            self.engine.backward(loss * (settings.accumulate * place.world))
            self.engine.step()
            self.recent.add(metrics)
        self.recent.end_step()
        self.state.step += 1

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.settings.steps

    def report(self) -> Metrics:
        """Means since the last report and the rates, if a report is due."""
        if not self._is_due(self.settings.report_every):
            return {}
        shared = gathered(self.recent.means(), self.place.world)
        metrics = {name: sum(part[name] for part in shared) for name in shared[0]}
        done = self.state.step
        if not math.isfinite(metrics["loss"]):
            raise self._diverged(f"the loss is {metrics['loss']} at step {done}")
        metrics |= self.clock.read(self.settings.batch_size, done, self.settings.steps)
        self.recent = Recent()
        return metrics | {"lr_factor": learning_rate_factor(done - 1, self.settings)}

    def validation(self) -> Metrics:
        """Metrics on the held-out rows, if a validation is due; the best weights are kept."""
        if not self._is_due(self.settings.validate_every):
            return {}
        with self.clock.paused():
            weights = self.engine.weights()
            self.sampler.load_state_dict(weights)
            metrics = self.validator(self.sampler)
        if not all(map(math.isfinite, metrics.values())):
            raise self._diverged(f"the block KL is not a number at step {self.state.step}")
        self.state.take(metrics, weights)
        return metrics

    def best(self) -> Metrics:
        """Load the best weights into ``sampler``, the present ones before any validation; their metrics."""
        state = self.state
        self.sampler.load_state_dict(state.best_weights or self.engine.weights())
        found = {f"best_{name}": value for name, value in (state.best_metrics or {}).items()}
        return {"best_step": state.best_step, "workers": self.place.world, **found}

    def _diverged(self, how: str) -> UserError:
        settings = self.settings
        return UserError(
            f"Training diverged: {how}. Lower train.lr ({settings.lr}) and train.muon_lr "
            f"({settings.muon_lr}); submitted again it goes on from the last checkpoint."
        )
