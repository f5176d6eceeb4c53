"""results.json: the one schema of measurements, for ``evaluate`` and for ``compare``.

The evaluation and the comparison write it; the report, the summary and the gate
read it. Reading validates. The strings below the fields are their descriptions in
the JSON schema (docs/results.md). Nothing here measures or draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from .. import storage
from ..errors import UserError
from ..sampler import JointSampler
from .measured import Axis, Bin, Curve, Difference, Metric, Part, Units
from .stats import Interval
from .unmasking import Unmasking

# The states at which KL is measured: recorded trajectories in their own order, the same
# trajectories in the method's order, or samples of the method.
KLPath = Literal["recorded", "own", "sampled"]


class Fidelity(Part):
    """Distance to the true joint: forward KL(teacher || method)."""

    nats_per_token: Interval
    """KL per revealed token, up to the row's end token."""
    nats_per_round: Interval | None = None
    """KL per k reveals, for methods with a fixed k."""
    captured: Interval | None = None
    """Captured dependency, 1 - nats / nats of marginal at the same k; null where marginal was not
    measured on the same rounds."""
    tokens_per_cost: float | None = None
    """Along the same states; null where it is the method's own figure."""
    breakdown: dict[Axis, list[Bin]] = Field({})
    """The same KL by place of the reveal: mask ratio, place in the round, distance."""


class MethodResult(Part):
    """One method at one setting. Tokens are those before the first end token."""

    method: str
    """A name of jointsampler/decoding/methods.py, or of a rival."""
    update: str = "none"
    """The update between its reveals."""
    setting: dict[str, int | float] = Field({})
    """k, or the settings of a stop rule; empty for sequential."""
    samples: int
    """Samples behind the figures that have no n of their own."""
    kl: dict[KLPath, Fidelity] = Field({})
    """By path, along sequential samples."""
    kl_on_tasks: dict[KLPath, Fidelity] = Field({})
    """By path, along sequential answers to task prompts."""
    nll: Interval | None = None
    """Nats per token of the judge; the aim is sequential's value."""
    mauve: Interval | None = None
    """Against sequential samples of the same teacher (arXiv 2102.01454)."""
    distinct: dict[int, Interval] = Field({})
    """n -> distinct n-grams / n-grams (arXiv 1510.03055); depends on the number of samples."""
    self_bleu: Interval | None = None
    """Mean BLEU-4 of a sample against all others (arXiv 1802.01886); higher: less diverse."""
    accuracy: Interval | None = None
    """Share of the task prompts that were answered correctly."""
    accuracy_ratio: Interval | None = None
    """Of a paired comparison (paired.py): accuracy relative to the reference on the same prompts."""
    cost: Interval | None = None
    """Of a paired comparison: time per response in batches, relative to the reference."""
    cost_alone: Interval | None = None
    """The same with one prompt in a batch."""
    teacher_passes: float
    """Per sample; a verification is one, however many prefixes it holds."""
    teacher_rows: float
    """Per sample: sequences through the teacher; every prefix counts."""
    update_passes: float
    """Per sample: updates that computed something."""
    tokens_per_pass: float
    """Tokens per teacher pass."""
    tokens_per_row: float
    """Tokens per teacher row."""
    tokens_per_cost: float
    """Tokens per full pass of a row, with updates at their measured cost."""
    tokens_per_second: float
    """Of one worker."""
    task_tokens_per_pass: float | None = None
    """Tokens per teacher pass on the task prompts."""
    task_tokens_per_cost: float | None = None
    """Tokens per unit of cost on the task prompts."""
    round_ends: tuple[float, float, float] | None = None
    """Verified methods: shares of rounds that ended full, by another order, by a rejection."""
    units: dict[Metric, Units] = Field({})
    """The figures that can be compared in pairs, unit by unit."""

    @property
    def k(self) -> int | None:
        """Tokens per teacher pass; None where a stop rule decides."""
        return 1 if self.method == "sequential" else self.setting.get("k")

    @property
    def captured(self) -> Interval | None:
        """Captured dependency on the recorded path, where it was measured."""
        return self.kl["recorded"].captured if "recorded" in self.kl else None

    def figures(self) -> dict[str, Interval]:
        """Every interval of the row under a short name."""
        found: dict[str, Interval | None] = {}
        for measured, where in ((self.kl, ""), (self.kl_on_tasks, "_on_tasks")):
            for path, fidelity in measured.items():
                end = ("" if path == "recorded" else f"_{path}") + where
                found[f"nats_per_token{end}"] = fidelity.nats_per_token
                found[f"captured{end}"] = fidelity.captured
        found |= {name: getattr(self, name) for name in ("nll", "mauve", "self_bleu", "accuracy")}
        found |= {f"distinct_{n}": interval for n, interval in self.distinct.items()}
        return {name: interval for name, interval in found.items() if interval is not None}

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
    """Of a full pass and the reveal after it, median."""
    update_seconds: float
    """Of an update and the reveal after it, median."""
    ratio: float
    """c: update / full."""
    batch: int
    """Rows."""
    length: int
    """Tokens of a response."""


class TeacherCard(Part):
    """The teacher, and what identifies it."""

    name: str
    """As it was loaded: an embedded name, a folder or a hub id."""
    family: str
    """The file of jointsampler/teachers/families that loaded it."""
    fingerprint: str
    """Identifies weights and config."""
    parameters: int | None = None
    """Null where the weights were not loaded."""


class SamplerCard(Part):
    """The trained sampler."""

    width: int
    """Of its layer."""
    parameters: int
    """Trained ones."""
    depth: int = 0
    """Lower layers of the teacher below the trained one."""

    @classmethod
    def of(cls, sampler: JointSampler) -> SamplerCard:
        config = sampler.config
        size = sum(p.numel() for p in sampler.parameters())
        return cls(width=config.width, parameters=size, depth=config.depth)


class Examples(Part):
    """Samples side by side."""

    columns: list[str]
    """Titles of the methods."""
    texts: list[list[str]]
    """One list per column; row i of every column has the same seed."""
    unmaskings: list[list[Unmasking]] = Field([])
    """Of the same samples; empty where none were kept."""


class Trial(Part):
    """One trial of a sweep."""

    values: dict[str, Any]
    """Config key -> value."""
    objective: float
    """Less is better."""
    ratio: float
    """Cost of one update with this sampler, in full passes."""
    nats: dict[int, float]
    """k -> nats per token."""
    captured: dict[int, float]
    """k -> share of the dependency."""
    steps: int
    """Of training."""
    stopped_early: bool
    """By the scheduler; the numbers are those of that step."""


class SweepTable(Part):
    """A sweep whose best sampler this is."""

    objective: str
    """nats_at_speed or speed_at_nats."""
    target: float
    """The speed, or the nats per token."""
    trials: list[Trial]
    """The best first."""

    def objective_text(self, trial: Trial) -> str:
        """A trial's objective in words."""
        if self.objective == "nats_at_speed":
            return (
                f"{trial.objective:.3f} nats per token at {self.target:g} tokens per full-pass cost"
            )
        return f"{-trial.objective:.2f} tokens per full-pass cost at {self.target:g} nats per token"


class Results(Part):
    """The measurements of one teacher's methods, and the conditions under which they were made."""

    schema_version: int = 3
    """Of this form. Version 2 had the stages' times, and no units, breakdowns, differences and curves."""
    config: dict[str, Any]
    """All settings of the run, or the protocol of the comparison."""
    versions: dict[str, str]
    """Package -> version."""
    machine: dict[str, Any]
    """Processor, cores, memory, GPU."""
    teacher: TeacherCard
    """The reference of every figure."""
    sampler: SamplerCard | None = None
    """The trained sampler, if one was measured."""
    judge: str = "none"
    """The causal LM behind NLL and MAUVE."""
    kl_temperature: float = 1.0
    """Of all KL figures: the corpus's, or 1 for a greedy corpus, because a distribution with one token
    has no finite KL to another. Top-p is not applied, likewise."""
    costs: dict[str, Cost] = Field({})
    """Update -> its cost."""
    ceiling: Interval | None = None
    """MAUVE of two independent sequential sets; null without a judge."""
    methods: list[MethodResult]
    """One row per method and setting."""
    items: dict[Metric, str] = Field({})
    """Metric -> digest of the prompts, seeds and trajectories behind its units. Two files with equal
    digests can be compared in pairs."""
    differences: list[Difference] = Field([])
    """Pairs of rows on the same prompts and seeds."""
    curves: list[Curve] = Field([])
    """Accuracy against parallelism, one per method with accuracies."""
    calibration: list[tuple[float, float, int]] = Field([])
    """(Estimated KL, true KL, states) by octile of the estimate."""
    examples: Examples | None = None
    """Samples side by side."""
    sweep: SweepTable | None = None
    """The sweep, if there was one."""

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
            flat |= {f"{name}/{what}": x.value for what, x in r.figures().items()}
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
