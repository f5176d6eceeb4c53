"""results.json: the one schema in which measurements leave a run.

Written by the evaluation, read by the report and by whoever compares runs.
Reading validates; nothing here measures or draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import UserError


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Interval(Part):
    value: float
    low: float
    high: float
    n: int  # independent units: trajectories, texts, samples a side
    sd: float | None = None  # over replicates, where the interval is value +- 2 sd


class Dependency(Part):
    nats: Interval  # block KL per block of k reveals
    captured: Interval | None  # 1 - sampler / marginal
    blocks: int


class MethodResult(Part):
    method: str
    k: int
    samples: int
    mauve: Interval | None = None  # against one-token-at-a-time samples of the same teacher
    nll: Interval | None = None  # nats per judge token
    block_kl: Dependency | None = None
    teacher_passes: float  # per sample; a verification is one, however many prefixes it holds
    teacher_rows: float  # per sample, sequences through the teacher: every prefix counts
    sampler_passes: float  # per sample
    tokens_per_teacher_pass: float  # tokens before the first eos
    cost_weighted_tokens_per_pass: float
    tokens_per_second: float  # of one worker


class Ceiling(Part):
    mauve: Interval  # two independent one-token-at-a-time sets against each other


class TeacherCard(Part):
    name: str
    family: str
    fingerprint: str
    parameters: int


class SamplerCard(Part):
    width: int
    layers: int
    parameters: int


class Examples(Part):
    columns: list[str]
    texts: list[list[str]]  # one list per column; row i of every column has the same seed


class Trial(Part):
    values: dict[str, Any]  # config key -> value
    objective: float  # less is better
    pass_cost_ratio: float  # c of this sampler
    pass_cost_first: float = 0.0  # and what a block's first pass adds
    nats: dict[int, float]  # k -> per token
    captured: dict[int, float]  # k -> share of the dependency
    steps: int
    stopped_early: bool  # by the scheduler; its numbers are those it had by then


class SweepTable(Part):
    objective: str  # nats_at_speed or speed_at_nats
    target: float  # the speed, or the nats per token
    trials: list[Trial]  # the best first

    def told(self, trial: Trial) -> str:
        """A trial's objective in words."""
        if self.objective == "nats_at_speed":
            return f"{trial.objective:.3f} nats per token at {self.target:g} tokens per teacher-pass cost"
        return (
            f"{-trial.objective:.2f} tokens per teacher-pass cost at {self.target:g} nats per token"
        )


class Results(Part):
    schema_version: int = 1
    config: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    teacher: TeacherCard
    sampler: SamplerCard
    judge: str
    pass_cost: dict[str, float]
    ceiling: Ceiling | None  # None without a judge
    methods: list[MethodResult]
    examples: Examples
    sweep: SweepTable | None = None

    def of(self, method: str, k: int) -> MethodResult:
        return next(r for r in self.methods if (r.method, r.k) == (method, k))

    def flat(self) -> dict[str, float]:
        """The headline numbers under short names, as a tracker wants them."""
        flat = {"pass_cost_ratio": self.pass_cost["ratio"]}
        for r in self.methods:
            name = f"{r.method}_k{r.k}"
            flat[f"{name}/tokens_per_second"] = r.tokens_per_second
            flat[f"{name}/cost_weighted_tokens_per_pass"] = r.cost_weighted_tokens_per_pass
            if r.mauve is not None:
                flat[f"{name}/mauve"] = r.mauve.value
            if r.nll is not None:
                flat[f"{name}/nll"] = r.nll.value
            if r.block_kl is not None:
                flat[f"{name}/block_kl"] = r.block_kl.nats.value
                if r.block_kl.captured is not None:
                    flat[f"{name}/captured"] = r.block_kl.captured.value
        return flat


def read_results(path: Path) -> Results:
    """UserError where the file is unreadable or does not fit the schema."""
    try:
        return Results.model_validate_json(path.read_text())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is not a results.json of this version: {where}: {first['msg']}."
        ) from None
