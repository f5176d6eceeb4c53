"""Compare decoding methods on one teacher: fidelity against cost, as a table and a plot.

    jointsampler compare --sampler out/quickstart/sampler --out out/compare

Prints a row per method and setting as it is measured: KL to the true joint in
nats per token (unconditional, and behind task prompts), NLL under the judge,
accuracy on the built-in tasks, tokens per teacher pass, the same weighted by
what a sampler pass costs here, tokens/s.
Writes compare.json and compare.svg (with the Pareto frontier) to --out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..decoding.methods import METHODS
from ..errors import UserError, unknown_name
from ..evaluation.compare import Comparison, Protocol, Row, at_equal_cost, compare, default_grid
from ..evaluation.judges import Judge, prepare_judge
from ..report.plots import frontier_svg
from .common import add_models, load_models

HEADER = (
    "method",
    "setting",
    "KL/token",
    "on tasks",
    "NLL",
    "accuracy",
    "tok/pass",
    "tok/cost",
    "tok/s",
)
WIDTHS = (20, 14, 21, 21, 21, 21, 9, 9, 6)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    parser.add_argument(
        "--methods", nargs="*", help="only these (default: every method that can run)"
    )
    parser.add_argument("--k", type=int, nargs="*", default=[2, 4, 8], help="of the fixed methods")
    parser.add_argument("--samples", type=int, default=64, help="unconditional samples per row")
    parser.add_argument("--prompts-per-task", type=int, default=8, help="0 leaves the tasks out")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--order", default="entropy")
    parser.add_argument(
        "--judge", default="none", help="smollm2, none, or a causal LM (default: none)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="folder for compare.json and compare.svg")


def run(args: argparse.Namespace) -> None:
    grid = default_grid(args.k)
    names = {setting.method: None for setting in grid}
    for name in args.methods or ():
        if name not in names:
            raise unknown_name("method", name, names)
    teacher, sampler = load_models(args)
    grid = [
        setting
        for setting in grid
        if (not args.methods or setting.method in args.methods)
        and (sampler is not None or not METHODS[setting.method].uses_sampler)
    ]
    if not grid:
        raise UserError("None of the methods asked for can run without a sampler: give --sampler.")
    out = None
    if args.out:
        out = Path(args.out).expanduser()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {out} cannot be a folder: {error.strerror}.") from None
    judge_id = prepare_judge(args.judge)
    judge = None if judge_id is None else Judge(judge_id, args.device)
    protocol = Protocol(
        samples=args.samples,
        max_new_tokens=args.max_new_tokens,
        prompts_per_task=args.prompts_per_task,
        order=args.order,
        seed=args.seed,
    )
    print(line(HEADER))
    result = compare(
        teacher, sampler, grid, protocol, judge, lambda row: print(line(cells(row)), flush=True)
    )
    print(closing(result))
    if out is not None:
        (out / "compare.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
        (out / "compare.svg").write_text(frontier_svg(result.rows))
        print(f"wrote {out / 'compare.json'} and {out / 'compare.svg'}")


def line(values: tuple[str, ...]) -> str:
    return " ".join(
        value.ljust(width) for value, width in zip(values, WIDTHS, strict=True)
    ).rstrip()


def cells(row: Row) -> tuple[str, ...]:
    def shown(estimate) -> str:
        return "-" if estimate is None else str(estimate)

    return (
        row.method,
        row.setting,
        "0 (exact)" if row.block_ends else shown(row.text and row.text.nats_per_token),
        shown(row.tasks and row.tasks.nats_per_token),
        shown(row.nll),
        shown(row.accuracy),
        f"{row.tokens_per_teacher_pass:.2f}",
        f"{row.tokens_per_cost:.2f}",
        f"{row.tokens_per_second:,.0f}",
    )


def closing(result: Comparison) -> str:
    lines = ["brackets: 95 %, bootstrap over samples"]
    if result.cost is not None:
        lines.append(f"c, a sampler pass in teacher passes, measured here: {result.cost.ratio:.3f}")
    for kind in ("text", "tasks"):
        pairs = at_equal_cost(result.rows, kind)
        if pairs:
            said = ", ".join(
                f"{mine:.4f}/{theirs:.4f} at {cost:.2f}" for cost, mine, theirs in pairs
            )
            lines.append(
                f"KL/token of adaptive / of joint at equal cost along the same {kind} samples: {said}"
            )
    if result.calibration:
        pairs = ", ".join(f"{guess:.3f}/{true:.3f}" for guess, true, _ in result.calibration)
        lines.append(f"the sampler's estimate of its KL / the true one, by octile: {pairs}")
    return "\n".join(lines)
