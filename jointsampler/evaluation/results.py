"""results.json: the one schema of measurements, for ``evaluate`` and for ``compare``.

The evaluation and the comparison write it; the report and the plots read it.
Reading validates. Nothing here measures or draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import storage
from ..errors import UserError
from ..sampler import JointSampler
from .stats import Interval

# The states at which KL is measured: recorded trajectories in their own order, the same
# trajectories in the method's order, or samples of the method.
KLPath = Literal["recorded", "own", "sampled"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fidelity(Part):
    """Distance to the true joint: forward KL(teacher || method)."""

    nats_per_token: Interval
    nats_per_round: Interval | None = None  # per k reveals, for methods with a fixed k
    # 1 - nats / nats of marginal at the same k; None for marginal and without a fixed k
    captured: Interval | None = None
    # tokens per unit of cost along the same states; None where it is the method's own figure
    tokens_per_cost: float | None = None


class MethodResult(Part):
    """One method at one setting. Tokens are those before the first end token."""

    method: str
    update: str = "none"  # the name of the update between its reveals
    setting: dict[str, int | float] = {}  # k, or the settings of a stop rule; {} for sequential
    samples: int
    kl: dict[KLPath, Fidelity] = {}
    kl_on_tasks: dict[KLPath, Fidelity] = {}  # along answers to task prompts
    nll: Interval | None = None  # nats per judge token
    mauve: Interval | None = None  # against sequential samples of the same teacher
    accuracy: Interval | None = None  # on the tasks
    # Of a paired comparison (paired.py): accuracy and processor time per token, each relative to
    # the reference on the same prompts; the time in batches, and with one prompt in a batch.
    accuracy_ratio: Interval | None = None
    cost: Interval | None = None
    cost_alone: Interval | None = None
    teacher_passes: float  # per sample; a verification is one, however many prefixes it holds
    teacher_rows: float  # per sample: sequences through the teacher, every prefix counts
    update_passes: float  # per sample
    tokens_per_pass: float  # per teacher pass
    tokens_per_row: float  # per teacher row
    tokens_per_cost: float  # per teacher row, update passes counted at their measured cost
    tokens_per_second: float  # of one worker
    # Verified methods only: shares of rounds that ended full, by another order, by a rejection.
    round_ends: tuple[float, float, float] | None = None

    @property
    def k(self) -> int | None:
        """Tokens per teacher pass; None where a stop rule decides."""
        return 1 if self.method == "sequential" else self.setting.get("k")

    @property
    def captured(self) -> Interval | None:
        """Captured dependency on the recorded path, where it was measured."""
        return self.kl["recorded"].captured if "recorded" in self.kl else None

    @property
    def knob(self) -> str:
        """The setting in words, for example "k = 4"."""
        return ", ".join(f"{name} = {value:g}" for name, value in self.setting.items())

    @property
    def label(self) -> str:
        """The method, and its update where the name of the method leaves it open."""
        implied = self.update in ("none", self.method)
        return self.method if implied else f"{self.method} ({self.update})"

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.label, self.knob)))


class Cost(Part):
    """What one update costs, measured beside a full teacher pass."""

    full_seconds: float
    update_seconds: float
    ratio: float  # c, update / full
    batch: int
    length: int


class TeacherCard(Part):
    name: str
    family: str
    fingerprint: str
    parameters: int | None = None  # None where the weights were not loaded


class SamplerCard(Part):
    width: int
    parameters: int
    depth: int = 0  # lower layers of the teacher below the trained one

    @classmethod
    def of(cls, sampler: JointSampler) -> SamplerCard:
        config = sampler.config
        size = sum(p.numel() for p in sampler.parameters())
        return cls(width=config.width, parameters=size, depth=config.depth)


class Examples(Part):
    columns: list[str]
    texts: list[list[str]]  # one list per column; row i of every column has the same seed


class Trial(Part):
    values: dict[str, Any]  # config key -> value
    objective: float  # less is better
    ratio: float  # cost of one update with this sampler, in full passes
    nats: dict[int, float]  # k -> per token
    captured: dict[int, float]  # k -> share of the dependency
    steps: int
    stopped_early: bool  # by the scheduler; the numbers are those of that step


class SweepTable(Part):
    objective: str  # nats_at_speed or speed_at_nats
    target: float  # the speed, or the nats per token
    trials: list[Trial]  # the best first

    def objective_text(self, trial: Trial) -> str:
        """A trial's objective in words."""
        if self.objective == "nats_at_speed":
            return (
                f"{trial.objective:.3f} nats per token at {self.target:g} tokens per full-pass cost"
            )
        return f"{-trial.objective:.2f} tokens per full-pass cost at {self.target:g} nats per token"


class StageTime(Part):
    seconds: float
    forecast_seconds: float | None = None


class Results(Part):
    schema_version: int = 2
    config: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    teacher: TeacherCard
    sampler: SamplerCard | None = None
    judge: str = "none"
    # Of all KL figures. It is the corpus's, or 1 for a greedy corpus (temperature 0), because a
    # distribution with one token has no finite KL to another. Top-p is not applied, likewise.
    kl_temperature: float = 1.0
    costs: dict[str, Cost] = {}  # method -> the cost of its update
    ceiling: Interval | None = (
        None  # MAUVE of two independent sequential sets; None without a judge
    )
    methods: list[MethodResult]
    calibration: list[tuple[float, float, int]] = []  # estimated KL, true KL, states, by octile
    examples: Examples | None = None
    sweep: SweepTable | None = None
    stages: dict[str, StageTime] = {}  # of the run; the report adds them

    def of(self, method: str, k: int) -> MethodResult:
        return next(r for r in self.methods if (r.method, r.k) == (method, k))

    def saturated(self, result: MethodResult) -> bool:
        """Whether MAUVE cannot tell the method's samples from sequential ones."""
        return bool(self.ceiling and result.mauve and result.mauve.overlaps(self.ceiling))

    def flat(self) -> dict[str, float]:
        """The headline numbers under short names, for a tracker."""
        flat = {f"{method}/cost_ratio": cost.ratio for method, cost in self.costs.items()}
        for r in self.methods:
            name = "_".join([r.method, *(f"{key}{value:g}" for key, value in r.setting.items())])
            flat[f"{name}/tokens_per_second"] = r.tokens_per_second
            flat[f"{name}/tokens_per_cost"] = r.tokens_per_cost
            flat[f"{name}/tokens_per_row"] = r.tokens_per_row
            for what in ("nll", "mauve", "accuracy"):
                if (interval := getattr(r, what)) is not None:
                    flat[f"{name}/{what}"] = interval.value
            for path, fidelity in r.kl.items():
                end = "" if path == "recorded" else f"_{path}"
                flat[f"{name}/nats_per_token{end}"] = fidelity.nats_per_token.value
                if fidelity.captured is not None:
                    flat[f"{name}/captured{end}"] = fidelity.captured.value
        return flat


def points(
    methods: Iterable[MethodResult], tasks: bool = False, path: KLPath = "own"
) -> list[tuple[float, float]]:
    """(tokens per unit of cost, nats per token) of the results that were measured on ``path``."""
    found = []
    for result in methods:
        fidelity = (result.kl_on_tasks if tasks else result.kl).get(path)
        if fidelity is not None:
            speed = fidelity.tokens_per_cost or result.tokens_per_cost
            found.append((speed, fidelity.nats_per_token.value))
    return found


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (tokens per unit of cost, nats) pairs that none beats in both, slowest first."""
    best, least = [], float("inf")
    for cost, nats in sorted(points, key=lambda point: (-point[0], point[1])):
        if nats < least:
            best.append((cost, nats))
            least = nats
    return best[::-1]


def write_results(results: Results, location: storage.Location) -> None:
    storage.write_json(location, results.model_dump())


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
            f"{path} is not a results.json of this version ({where}: {first['msg']}): run the stage or "
            "command that wrote it again."
        ) from None
