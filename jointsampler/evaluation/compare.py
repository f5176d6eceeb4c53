"""The table of methods: what each costs and how far from the true joint it is, on one teacher.

Every row is made with the same prompts, seeds, order and accounting. Fidelity
is path KL in nats per token along sequential samples (``path_kl.py``), once
unconditional and once behind task prompts, NLL under a judge, and accuracy on
the tasks; cost is passes, weighted by what a sampler pass was measured to cost,
and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..corpus.trajectories import Trajectories
from ..decoding.generate import Generation, check_k, generate
from ..decoding.methods import METHODS, get_method
from ..sampler.model import JointSampler
from ..tasks import TASKS, UNSEEN, examples
from ..teachers.protocol import Teacher
from .cost import PassCost, pass_cost
from .judges import Judge
from .nll import generative_nll
from .path_kl import Reference, calibration, path_kl
from .stats import Estimate, bootstrap


@dataclass(frozen=True)
class Setting:
    """A method with its knob turned: k for the fixed ones, its rule's setting for the others."""

    method: str
    k: int = 4
    rule: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.rule:
            return ", ".join(f"{name}={value:g}" for name, value in self.rule.items())
        return "" if METHODS[self.method].one_token else f"k={self.k}"


def default_grid(ks: Sequence[int]) -> list[Setting]:
    """Every method at the settings that trace its frontier."""
    fixed = ("marginal", "joint", "lossless", "lossless_tokens")
    rules = {
        "adaptive": ("budget", (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)),
        "threshold": ("threshold", (0.95, 0.9, 0.7, 0.5)),
        "factor": ("factor", (0.5, 1.0, 2.0)),
        "entropy_bound": ("bound", (0.1, 0.5, 2.0)),
        "klass": ("kl", (0.01, 0.1)),
    }
    grid = [Setting("sequential", 1)]
    grid += [Setting(name, k) for name in fixed for k in ks if k > 1]
    for name, (knob, values) in rules.items():
        variants = [name] if METHODS[name].uses_sampler else [name, f"joint_{name}"]
        grid += [Setting(variant, 4, {knob: v}) for variant in variants for v in values]
    return grid


@dataclass(frozen=True)
class Fidelity:
    """Distance and cost along the same trajectories."""

    nats_per_token: Estimate
    tokens_per_cost: float  # tokens / (teacher passes + c x sampler passes)


@dataclass(frozen=True)
class Row:
    method: str
    setting: str
    # Along unconditional samples. None for a verified method, whose law is the teacher's own, and
    # for klass, which picks positions that no recorded trajectory picked.
    text: Fidelity | None
    tasks: Fidelity | None  # along answers to task prompts
    nll: Estimate | None
    accuracy: Estimate | None
    tokens_per_teacher_pass: float
    tokens_per_cost: float  # as sampled
    tokens_per_second: float
    block_ends: tuple[float, float, float] | None  # shares: full, order mismatch, rejection


@dataclass(frozen=True)
class Comparison:
    cost: PassCost
    rows: list[Row]
    calibration: list[tuple[float, float, int]]  # of the sampler's estimates, on the reference


@dataclass(frozen=True)
class Protocol:
    samples: int = 64
    max_new_tokens: int = 32
    prompts_per_task: int = 8
    tasks: tuple[str, ...] = tuple(sorted(TASKS))
    order: str = "entropy"
    seed: int = 0


def task_prompts(protocol: Protocol) -> list[tuple[str, str]]:
    """(task, prompt) pairs, the same for every method, from streams that no corpus takes its prompts from."""
    return [
        (name, example.prompt)
        for name in protocol.tasks
        for example in examples(TASKS[name], protocol.seed + UNSEEN, protocol.prompts_per_task)
    ]


def reference_of(teacher: Teacher, truth: Generation, protocol: Protocol) -> Reference:
    return Reference(teacher, Trajectories.from_generation(truth, protocol.seed + 1, teacher))


def compare(
    teacher: Teacher,
    sampler: JointSampler | None,
    grid: Sequence[Setting],
    protocol: Protocol,
    judge: Judge | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> Comparison:
    """One row per setting; ``on_row`` sees each as it is made. Methods without their sampler are refused."""
    shared = dict(max_new_tokens=protocol.max_new_tokens, order=protocol.order)
    truth = generate(
        teacher,
        method="sequential",
        k=1,
        num_samples=protocol.samples,
        seed=protocol.seed + 1,
        **shared,
    )
    references = {"text": reference_of(teacher, truth, protocol)}
    cost = (
        pass_cost(teacher, sampler, 16, protocol.max_new_tokens, protocol.order)
        if sampler is not None
        else None
    )
    prompts = task_prompts(protocol)
    if prompts:
        truth = generate(
            teacher,
            None,
            [prompt for _, prompt in prompts],
            "sequential",
            1,
            seed=protocol.seed + 1,
            **shared,
        )
        references["tasks"] = reference_of(teacher, truth, protocol)
    for setting in grid:  # before the first row: the last one must not fail for its k
        if get_method(setting.method).has_k:
            check_k(setting.k, protocol.max_new_tokens)
            if get_method(setting.method).uses_sampler and sampler is not None:
                sampler.check_block(setting.k)
    rows = []
    for setting in grid:
        method = get_method(setting.method)
        call = dict(
            method=setting.method, k=setting.k, seed=protocol.seed, **shared, **setting.rule
        )
        out = generate(teacher, sampler, num_samples=protocol.samples, **call)
        fidelity: dict[str, Fidelity] = {}
        if method.verification is None and not hasattr(method.rule, "watcher"):
            k_max = None if sampler is None else sampler.config.k_max
            stop = method.stop(setting.k, protocol.max_new_tokens, setting.rule, k_max)
            for name, reference in references.items():
                path = path_kl(teacher, sampler, reference, method, stop, protocol.order)
                passes = int(path.teacher_passes.sum())
                made = reference.trajectories.tokens.numel()
                worth = made / passes
                if cost is not None:
                    worth = cost.tokens_per_pass(made, passes, int(path.sampler_passes.sum()))
                fidelity[name] = Fidelity(path.nats_per_token, float(worth))
        accuracy = None
        if prompts:
            answers = generate(
                teacher,
                sampler,
                [prompt for _, prompt in prompts],
                stop_at_end=bool(teacher.end_ids),
                **call,
            )
            right = [
                [float(TASKS[name].check(prompt, text))]
                for (name, prompt), text in zip(prompts, answers.texts, strict=True)
            ]
            accuracy = bootstrap(lambda mean: mean[..., 0], right)
        tokens, passes = int(out.effective_tokens.sum()), int(out.teacher_passes.sum())
        weighted = float(tokens / passes)
        if cost is not None:
            weighted = cost.tokens_per_pass(tokens, passes, int(out.sampler_passes.sum()))
        ends = out.block_ends.sum(0).double()
        row = Row(
            setting.method,
            str(setting),
            fidelity.get("text"),
            fidelity.get("tasks"),
            generative_nll(judge.score(out.texts)) if judge is not None else None,
            accuracy,
            tokens / passes,
            weighted,
            tokens / out.seconds,
            tuple((ends / ends.sum()).tolist()) if method.verification else None,
        )
        rows.append(row)
        if on_row is not None:
            on_row(row)
    bins = []
    if sampler is not None:
        method = get_method("adaptive")
        stop = method.stop(
            4, protocol.max_new_tokens, {"budget": float("inf")}, sampler.config.k_max
        )
        bins = calibration(
            path_kl(teacher, sampler, references["text"], method, stop, protocol.order).guesses
        )
    return Comparison(cost, rows, bins)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (tokens per cost, nats) pairs those that none beats in both, slowest first."""
    best, least = [], float("inf")
    for cost, nats in sorted(points, key=lambda point: (-point[0], point[1])):
        if nats < least:
            best.append((cost, nats))
            least = nats
    return best[::-1]


def points(rows: Sequence[Row], kind: str, method: str | None = None) -> list[tuple[float, float]]:
    """(tokens per cost, nats per token) of rows that have them; ``kind`` is "text" or "tasks"."""
    chosen = [row for row in rows if method in (None, row.method)]
    found = [getattr(row, kind) for row in chosen]
    return [(f.tokens_per_cost, f.nats_per_token.value) for f in found if f is not None]


def at_equal_cost(
    rows: Sequence[Row], kind: str, method: str = "adaptive", against: str = "joint"
) -> list[tuple[float, float, float]]:
    """(tokens per cost, nats of ``method``, nats of ``against`` there) wherever the latter reaches.

    ``against`` is interpolated linearly between its settings and ``sequential``.
    """
    line = sorted(points(rows, kind, against) + points(rows, kind, "sequential"))
    if not line:
        return []
    costs, nats = zip(*line, strict=True)
    return [
        (cost, value, float(np.interp(cost, costs, nats)))
        for cost, value in sorted(points(rows, kind, method))
        if costs[0] <= cost <= costs[-1]
    ]
