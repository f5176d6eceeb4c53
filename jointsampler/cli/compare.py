"""Compare decoding methods on one teacher: fidelity against cost, as a table and a plot.

    jointsampler compare --sampler out/quickstart/sampler --out out/compare

Prints a row per method and setting as it is measured: KL to the true joint in
nats per token (in the method's own order, on unconditional text and on task
prompts), NLL under the judge, accuracy on the built-in tasks, tokens per teacher
row, the same with updates at their measured cost, tokens/s.
Then AUP, accuracy at matched cost and speed at matched accuracy per method, and the
paired differences of the accuracies from the rows of --against.
With --rivals the rows are those of jointsampler/rivals on task prompts alone, at
batch size 36 and with settings of their own.
Writes results.json, summary.md and compare.svg (with the Pareto frontier) to --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from ..decoding.orders import ORDERS
from ..errors import UserError, unknown_name
from ..evaluation.compare import Comparison, Protocol, compare
from ..evaluation.grid import Setting, default_grid
from ..evaluation.judges import Judge, prepare_judge
from ..evaluation.results import MethodResult, Results, write_results
from ..evaluation.worth import at_equal_cost
from ..report.charts import frontier_svg
from ..report.markdown import markdown
from ..sampler import JointSampler
from ..storage import write
from ..teachers.protocol import Teacher
from .common import add_models, load_models, updates_of
from .rivals import compare_rivals
from .tables import bases, line, shown, statistics

HEADER = (
    "method",
    "setting",
    "KL/token",
    "on tasks",
    "NLL",
    "accuracy",
    "tok/row",
    "tok/cost",
    "tok/s",
)
WIDTHS = (24, 16, 21, 21, 21, 21, 9, 9, 6)
# What the rows of --rivals settle themselves, with the defaults of the others.
_SETTLED = {"k": [2, 4, 8], "samples": 64, "order": "entropy", "judge": "none"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    parser.add_argument(
        "--methods", nargs="*", help="only these (default: every method that can run)"
    )
    parser.add_argument(
        "--against", nargs="+", help="methods from whose rows all others differ (default: sequential, with --rivals "
        "refresh too)",
    )  # fmt: skip
    parser.add_argument("--k", type=int, nargs="*", help="of the fixed methods (default: 2 4 8)")
    parser.add_argument("--samples", type=int, help="unconditional samples per row (default: 64)")
    parser.add_argument("--prompts-per-task", type=int, default=8, help="0 leaves the tasks out")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--order", help=f"{', '.join(ORDERS)} (default: entropy)")
    parser.add_argument("--judge", help="smollm2, none, or a causal LM (default: none)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="published methods beside ours on task prompts, with paired accuracy and measured cost",
    )
    parser.add_argument("--out", help="folder for results.json, summary.md and compare.svg")


def run(args: argparse.Namespace) -> None:
    _complete(args)
    teacher, sampler = load_models(args)
    out = _folder(args.out)
    if args.rivals:
        results = compare_rivals(args, teacher, updates_of(args, sampler), sampler)
    else:
        results = _compare(args, teacher, sampler)
    if out is not None:
        path = "sampled" if args.rivals else "own"
        write_results(results, out / "results.json")
        write(out / "summary.md", markdown(results).encode())
        write(out / "compare.svg", frontier_svg(results.methods, path).encode())
        print(f"wrote results.json, summary.md and compare.svg to {out}")


def _complete(args: argparse.Namespace) -> None:
    """Write the defaults of what --rivals settles itself; UserError where both are given."""
    given = [f"--{name}" for name in _SETTLED if getattr(args, name) is not None]
    if args.rivals and given:
        raise UserError(
            f"The rows of --rivals have settings of their own: leave out {', '.join(given)}."
        )
    for name, default in _SETTLED.items():
        if getattr(args, name) is None:
            setattr(args, name, default)


def _compare(args: argparse.Namespace, teacher: Teacher, sampler: JointSampler | None) -> Results:
    """Every method that can run, measured one by one."""
    grid = _grid(args, sampler is not None)
    against = bases(args.against, ("sequential",), {setting.method for setting in grid})
    judge_id = prepare_judge(args.judge)
    judge = None if judge_id is None else Judge(judge_id, args.device)
    protocol = Protocol(
        samples=args.samples,
        max_new_tokens=args.max_new_tokens,
        prompts_per_task=args.prompts_per_task,
        order=args.order,
        seed=args.seed,
    )
    comparison = Comparison(teacher, updates_of(args, sampler), protocol, judge)
    print(line(HEADER, WIDTHS))
    results = compare(
        comparison, grid, lambda row: print(line(cells(row), WIDTHS), flush=True), against
    )
    print(closing(results, against))
    return results


def _grid(args: argparse.Namespace, trained: bool) -> list[Setting]:
    grid = default_grid(args.k, trained)
    names = {setting.method for setting in default_grid(args.k, True)}
    for name in args.methods or ():
        if name not in names:
            raise unknown_name("method", name, names)
    grid = [setting for setting in grid if not args.methods or setting.method in args.methods]
    if not grid:
        raise UserError("None of these methods can run without a sampler: give --sampler.")
    return grid


def _folder(given: str | None) -> Path | None:
    if given is None:
        return None
    out = Path(given).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be a folder: {error.strerror}.") from None
    return out


def cells(row: MethodResult) -> tuple[str, ...]:
    def nats(found: dict) -> str:
        if row.method == "lossless":
            return "0 (exact)"
        return shown(found["own"].nats_per_token) if "own" in found else "-"

    return (
        row.label,
        row.knob,
        nats(row.kl),
        nats(row.kl_on_tasks),
        shown(row.nll),
        shown(row.accuracy),
        f"{row.tokens_per_row:.2f}",
        f"{row.tokens_per_cost:.2f}",
        f"{row.tokens_per_second:,.0f}",
    )


def closing(results: Results, against: Collection[str]) -> str:
    lines = ["brackets: 95 %, bootstrap over samples; KL in the method's own order"]
    for name, cost in results.costs.items():
        lines.append(f"an update ({name}) costs {cost.ratio:.3f} of a full pass here")
    lines += statistics(results, against)
    for tasks in (False, True):
        pairs = at_equal_cost(results.methods, "adaptive (joint)", "joint", tasks=tasks)
        if pairs:
            shown = ", ".join(
                f"{mine:.4f}/{theirs:.4f} at {cost:.2f}" for cost, mine, theirs in pairs
            )
            kind = "task" if tasks else "text"
            lines.append(f"KL/token of adaptive / joint at equal cost on {kind} samples: {shown}")
    if results.calibration:
        pairs = ", ".join(f"{guess:.3f}/{true:.3f}" for guess, true, _ in results.calibration)
        lines.append(f"the sampler's estimate of its KL / the true KL, by octile: {pairs}")
    return "\n".join(lines)
