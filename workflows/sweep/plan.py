"""The plan of a sweep: its trials, all checked before any starts, and the best one's configuration."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jointsampler.config import Config, Range, SweepConfig, changed
from jointsampler.errors import UserError
from workflows import corpus
from workflows.stage import digest
from workflows.train.plan import TrainPlan, plan_on

SWEPT = ("sampler.", "train.")  # the corpus is made once, before the sweep
NOT_SWEPT = {  # keys of train that the sweep sets itself or that make no other training, and why
    "train.steps": "sweep.steps is the length of a trial",
    "train.workers": "sweep.workers is the number of workers of a trial",
    "train.min_workers": "a trial has sweep.workers workers",
    "train.report_every": "it changes no training",
    "train.max_failures": "it changes no training",
}
VARIANT = "variant"  # beside the space's keys: the name of one of sweep.variants


@dataclass(frozen=True)
class SweepPlan:
    out: Path
    corpus: corpus.CorpusPlan
    config: Config  # of a trial, before its values are put in

    stage = "sweep"

    @property
    def settings(self) -> SweepConfig:
        return self.config.sweep

    @property
    def folder(self) -> Path:
        return self.out / "sweep"

    @property
    def table(self) -> Path:
        return self.folder / "sweep.json"

    @property
    def key(self) -> str:
        settings = self.settings.model_dump(exclude={"at_once", "workers"})
        return digest(self.trial({}).key, settings)

    def intact(self) -> bool:
        return self.table.exists()

    def trial(self, values: dict[str, Any], name: str = "") -> TrainPlan:
        """The training of one trial; UserError where a value fits no key."""
        made = plan_on(
            self.corpus,
            changed(self.config, resolved(self.settings, values)),
            self.folder / f"{digest(values)}{name}",
        )
        return dataclasses.replace(made, trial=name)


def resolved(settings: SweepConfig, values: dict[str, Any]) -> dict[str, Any]:
    """A trial's values with its variant's name replaced by the variant's own values."""
    own = {key: value for key, value in values.items() if key != VARIANT}
    return settings.variants[values[VARIANT]] | own if VARIANT in values else own


def chosen(config: Config, results: dict[str, Any]) -> Config:
    """The configuration of the sweep's best trial, with the training at its full length."""
    return changed(config, results["best"])


def plan(config: Config, out: Path) -> SweepPlan:
    """The sweep of ``config``. Every trial of a grid, or else every value, is validated here."""
    settings = config.sweep
    if not settings.wanted:
        raise UserError(
            "sweep.space is empty, and so are the variants: name config keys and their values, for "
            "example 'sweep.space={sampler.width: [96, 192], train.k_max: [4, 8]}'."
        )
    trial = changed(config, {"train.steps": settings.steps, "train.min_workers": 0})
    made = SweepPlan(out, corpus.plan(config, out), trial)
    check_keys(settings)
    if settings.search == "grid":
        check_grid(made)
    else:
        check_values(made)
    if settings.scheduler == "asha" and settings.grace > settings.steps:
        raise UserError(
            f"sweep.grace={settings.grace} exceeds sweep.steps={settings.steps}: no trial would ever be stopped."
        )
    if settings.search == "optuna":
        check_optuna()
    return made


def check_keys(settings: SweepConfig) -> None:
    """UserError where a key cannot be swept, or its values do not suit the search."""
    for name, values in settings.variants.items():
        for key in values:
            check_key(key, f"sweep.variants.{name}")
            if key in settings.space:
                raise UserError(f"sweep.variants.{name} sets {key}, which sweep.space varies.")
    for key, choice in settings.space.items():
        check_key(key, "sweep.space")
        if isinstance(choice, Range) and settings.search == "grid":
            raise UserError(
                f"sweep.space.{key} is a range, and a grid needs values: list them, or set "
                "sweep.search=random."
            )
        if not values_of(choice):
            raise UserError(f"sweep.space.{key} holds no values.")


def check_key(key: str, where: str) -> None:
    if not key.startswith(SWEPT):
        raise UserError(
            f"{where} cannot hold {key!r}: only keys of sampler and train are swept, on one corpus."
        )
    if key in NOT_SWEPT:
        raise UserError(f"{where} cannot hold {key!r}: {NOT_SWEPT[key]}.")


def check_optuna() -> None:
    """UserError where optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError(
            "sweep.search=optuna needs the package optuna: pip install 'jointsampler[optuna]'."
        ) from None


def values_of(choice: list[Any] | Range) -> list[Any]:
    """All of a list. Of a range its ends and a value between, which a key of integers refuses."""
    if not isinstance(choice, Range):
        return choice
    return [choice.low, choice.low + 0.37 * (choice.high - choice.low), choice.high]


def axes_of(settings: SweepConfig) -> dict[str, list[Any]]:
    """Every key in which trials differ, and its values."""
    axes = {key: values_of(choice) for key, choice in settings.space.items()}
    return axes | ({VARIANT: list(settings.variants)} if settings.variants else {})


def count(settings: SweepConfig) -> int:
    """How many trials a sweep has."""
    if settings.search != "grid":
        return settings.trials
    return math.prod(len(values) for values in axes_of(settings).values())


def check_values(made: SweepPlan) -> None:
    """UserError where a value fits into no trial, whatever the other keys hold."""
    axes = axes_of(made.settings)
    for key, values in axes.items():
        others = {name: choice for name, choice in axes.items() if name != key}
        for value in values:
            first = None
            for point in itertools.product(*others.values()):
                try:
                    made.trial({key: value} | dict(zip(others, point, strict=True)))
                    break
                except UserError as error:
                    first = first or error
            else:
                raise first


def check_grid(made: SweepPlan) -> None:
    """UserError where a point of the grid is invalid, or two points are one training."""
    axes = axes_of(made.settings)
    seen: dict[str, dict[str, Any]] = {}
    for point in itertools.product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        other = seen.setdefault(made.trial(values).key, values)
        if other is not values:
            raise UserError(
                f"Two trials of the sweep are the same training, {other} and {values}: leave one out."
            )
