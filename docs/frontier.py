"""Measure and draw docs/assets/updates.svg: the distance of every update to the joint against its cost.

    python docs/frontier.py
    python docs/frontier.py --hybrid 1=out/depth-1/sampler --hybrid 2=out/depth-2/sampler

Prints the table of docs/ablations.md ("The frontier") row by row: captured dependency and
nats per token on the embedded teacher in the method's own order, and the measured cost of an
update and its reveal at batch 1 and 16. Under it stand the rules that reveal several
tokens of one full pass without an update, at settings that span the same speeds. What is
measured is in ``jointsampler/evaluation``.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt  # MLflow brings it

from jointsampler import JointSampler, Refresh, generate, load_teacher
from jointsampler.columns import POLICIES
from jointsampler.corpus.trajectories import Trajectories
from jointsampler.decoding.methods import get_method
from jointsampler.decoding.orders import get_order
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.strategy import Strategy
from jointsampler.evaluation.cost import step_seconds
from jointsampler.evaluation.kl import Reference, block_kl
from jointsampler.evaluation.stats import Interval
from jointsampler.report.charts import COST, NATS
from jointsampler.updates import NoUpdate, Update, as_update

ORDER, SEED, BATCHES, COLUMNS = "entropy", 21, (1, 16), 8
RULES = {
    "threshold": ("threshold", (0.5, 0.3, 0.2, 0.1, 0.05)),
    "entropy_bound": ("bound", (0.5, 1.0, 2.0, 4.0, 8.0)),
}
ASSET = Path(__file__).parent / "assets" / "updates.svg"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jointsampler",  # the same numbers give the same bytes
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",  # readable on a dark page
}
COLOURS = {
    "rule": "#475569",
    "paper": "#c2410c",
    "hybrid": "#0f766e",
    "refresh": "#1d4ed8",
    "literature": "#9333ea",
}


@dataclass(frozen=True)
class Point:
    name: str
    kind: str  # a key of COLOURS
    nats: Interval
    speed: dict[int, float]  # tokens per cost by batch size


def updates(hybrids: dict[str, str]) -> dict[str, tuple[str, Update]]:
    """(kind, update) by the name in the table; ``hybrids``: folders of samplers by depth."""
    found: dict[str, tuple[str, Update]] = {
        "the paper's form": ("paper", as_update(JointSampler.from_pretrained("tiny-paper"))),
        "hybrid, shipped": ("hybrid", as_update(JointSampler.from_pretrained("tiny"))),
    }
    for depth, folder in hybrids.items():
        found[f"hybrid {depth}"] = "hybrid", as_update(JointSampler.from_pretrained(folder))
    for columns in (4, COLUMNS, 16):
        found[f"refresh {columns}"] = "refresh", Refresh(columns)
    for policy in POLICIES:
        if policy != "attention":
            kind = "refresh" if policy == "near" else "literature"
            found[f"refresh {COLUMNS}, {policy}"] = kind, Refresh(COLUMNS, policy)
    return found


def ratios(
    teacher, found: dict[str, tuple[str, Update]], length: int
) -> dict[str, dict[int, float]]:
    """c of every update by batch size; all are timed in turn in one process."""
    costs: dict[str, dict[int, float]] = {name: {} for name in found}
    for batch in BATCHES:
        timed = [update for _, update in found.values()]
        full, later = step_seconds(teacher, timed, batch, length, ORDER)
        for name, seconds in zip(found, later, strict=True):
            costs[name][batch] = median(seconds) / median(full)
    return costs


def per_token(round_of_k: Interval, k: int) -> Interval:
    """From nats per round of ``k`` reveals."""
    value, low, high = (
        None if end is None else end / k
        for end in (round_of_k.value, round_of_k.low, round_of_k.high)
    )
    return Interval(value=value, low=low, high=high, n=round_of_k.n)


def measured(reference: Reference, found, costs, k: int) -> list[Point]:
    """A point per update at ``k``, printed as rows of the table."""
    print(
        "| update | captured | nats per token | c, batch 1 | c, batch 16 |\n|---|---|---|---|---|"
    )
    points = []
    for name, (kind, update) in found.items():
        kl = block_kl(
            reference.teacher, update, reference.trajectories, k, path="own", reference=reference
        )
        nats, c = per_token(kl.update, k), costs[name]
        print(f"| {name} | {kl.captured} | {nats} | {c[1]:.2f} | {c[16]:.2f} |", flush=True)
        points.append(Point(name, kind, nats, {b: k / (1 + c[b] * (k - 1)) for b in BATCHES}))
    return points


def without_update(reference: Reference) -> list[Point]:
    """The marginal model and the rules without an update, printed as rows."""
    print("\n| without an update | tokens per full pass | nats per token |\n|---|---|---|")
    length, points = reference.trajectories.order.shape[1], []
    settings = [("marginal", {"k": k}) for k in (2, 4, 8)]
    settings += [(rule, {knob: v}) for rule, (knob, values) in RULES.items() for v in values]
    for name, setting in settings:
        rule = {key: value for key, value in setting.items() if key != "k"}
        stop = get_method(name).stop(setting.get("k", 4), length, rule, None)
        strategy = Strategy(NoUpdate(), stop, get_order(ORDER), Sampling(), SEED)
        walk = reference.walk(strategy, "own", 1.0)
        nats, speed = walk.nats_per_token(), walk.tokens() / int(walk.teacher_passes.sum())
        knob = ", ".join(f"{key} {value:g}" for key, value in setting.items())
        print(f"| {name}, {knob} | {speed:.2f} | {nats} |", flush=True)
        points.append(Point(name, "rule", nats, dict.fromkeys(BATCHES, speed)))
    return points


def svg(points: list[Point], rules: list[Point]) -> str:
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(BATCHES), figsize=(12, 5.2), sharey=True)
        for axes, batch in zip(panels, BATCHES, strict=True):
            for name, line in zip(
                dict.fromkeys(p.name for p in rules), ("-", "--", ":"), strict=True
            ):
                own = sorted((p.speed[batch], p.nats.value) for p in rules if p.name == name)
                axes.plot(*zip(*own, strict=True), line, color=COLOURS["rule"], lw=1, label=name)
            for point in points:
                x, y = point.speed[batch], point.nats.value
                axes.plot(x, y, "o", color=COLOURS[point.kind], ms=5)
                axes.annotate(
                    point.name, (x, y), (6, 0), textcoords="offset points", fontsize=7, va="center"
                )
            axes.set_yscale("log")
            axes.set_xlim(0.9, 1.25 * max(point.speed[batch] for point in points))
            axes.set_xlabel(COST)
            axes.set_title(f"batch {batch}")
        panels[0].set_ylabel(NATS)
        panels[0].legend(frameon=False, fontsize=8, title="without an update")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument(
        "--hybrid", action="append", default=[], metavar="DEPTH=DIR", help="another trained sampler"
    )
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    teacher = load_teacher("tiny", device="cpu")
    found = updates(dict(given.split("=", 1) for given in args.hybrid))
    truth = generate(
        teacher, method="sequential", num_samples=args.samples, max_new_tokens=args.tokens, seed=SEED,
        stop_at_end=True,
    )  # fmt: skip
    reference = Reference(teacher, Trajectories.from_generation(truth, SEED, teacher))
    costs = ratios(teacher, found, args.tokens)
    points = measured(reference, found, costs, args.k)
    args.out.write_text(svg(points, without_update(reference)))


if __name__ == "__main__":
    main()
