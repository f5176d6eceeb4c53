"""Choose update, columns and k for this machine: measured once, then kept.

    jointsampler tune --batch 16 --length 64
    jointsampler tune --teacher tiny --length 96 --budget 0.05 --sampler tiny tiny-paper
    jointsampler tune --length 64 --speed 3 --prompt "def main(" --out out/tuning.json
    jointsampler tune --predict h100 --shape dream-7b --batch 8 --measured out/tuning.json

Times a full pass and every update, measures the nats per token of each candidate at
its own samples, and prints the candidates near the Pareto frontier with the pick. The
figures are kept in the user's cache folder ($JOINTSAMPLER_CACHE); ``generate --method
auto`` finds them there. With --predict nothing is run: seconds come from the cost model of
``benchmark``, the nats and the length from a measured file of --out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..benchmark import SHAPES
from ..benchmark.roofline import DEVICES, get_device
from ..benchmark.shapes import get_shape
from ..errors import UserError
from ..sampler.model import EMBEDDED, JointSampler
from ..storage import make_folder, write_json
from ..teachers import Teacher, load_teacher
from ..tuning import BUDGET, Tuning, pick, tune
from ..tuning.picking import check_aim
from ..tuning.predict import predict, read
from ..tuning.table import table
from ..tuning.tuner import LIMIT
from .common import add_device

# The options of a measurement, refused with --predict, and what they are where not given.
_MEASURED = dict(
    teacher="tiny", sampler=None, length=64, prompt=None, temperature=1.0, order="entropy",
    limit=LIMIT, anew=False,
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", help="embedded name, folder or hub id (default: tiny)")
    parser.add_argument(
        "--sampler",
        nargs="*",
        help="folders of trained samplers to try too or none (default: the shipped one of a shipped teacher)",
    )
    parser.add_argument("--batch", type=int, default=1, help="rows decoded at once")
    parser.add_argument("--length", type=int, help="tokens of a response (default: 64)")
    parser.add_argument(
        "--budget", type=float, metavar="NATS", help=f"per token, at most (default: {BUDGET})"
    )
    parser.add_argument("--speed", type=float, metavar="X", help="or at least X times sequential")
    parser.add_argument(
        "--prompt", nargs="+", metavar="PROMPT", help="measure on these (default: unconditional)"
    )
    parser.add_argument("--temperature", type=float, help="(default: 1)")
    parser.add_argument("--order", help="(default: entropy)")
    parser.add_argument(
        "--limit", type=float, metavar="SECONDS",
        help=f"no further measurement begins after this (default: {LIMIT:g})",
    )  # fmt: skip
    parser.add_argument(
        "--anew", action="store_true", default=None, help="measure again, whatever is kept"
    )
    parser.add_argument("--out", help="file for all candidates as JSON")
    parser.add_argument("--predict", metavar="DEVICE", help=f"run nothing: {', '.join(DEVICES)}")
    parser.add_argument("--shape", help=f"of the predicted teacher: {', '.join(SHAPES)}")
    parser.add_argument("--measured", metavar="FILE", help="whose nats a prediction takes")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    check_aim(args.budget, args.speed)
    if args.threads < 0:
        raise UserError(f"--threads must be at least 0, not {args.threads}.")
    out = None if args.out is None else Path(args.out).expanduser()
    if out is not None:
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: name a file.")
        make_folder(out.parent)
    found = _measured(args) if args.predict is None else _predicted(args)
    picked = pick(found.candidates, args.budget, args.speed)
    print(table(found, picked))
    print(f"pick: {picked.expected()}")
    if out is not None:
        write_json(out, found.model_dump() | {"pick": picked.model_dump()})
        print(f"wrote {out}")


def _measured(args: argparse.Namespace) -> Tuning:
    if args.shape is not None or args.measured is not None:
        raise UserError("--shape and --measured belong to a prediction: add --predict DEVICE.")
    for name, value in _MEASURED.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.threads:
        torch.set_num_threads(args.threads)
    teacher = load_teacher(args.teacher, args.device, args.dtype)
    return tune(
        teacher,
        args.batch,
        args.length,
        _samplers(args, teacher),
        prompts=args.prompt,
        temperature=args.temperature,
        order=args.order,
        limit=args.limit,
        anew=args.anew,
        progress=lambda said: print(said, file=sys.stderr),
    )


def _predicted(args: argparse.Namespace) -> Tuning:
    given = [f"--{name}" for name in _MEASURED if getattr(args, name) is not None]
    if given:
        raise UserError(
            f"{given[0]} belongs to a measurement, and a prediction runs none: leave it out; nats and "
            "length are those of --measured."
        )
    if args.shape is None or args.measured is None:
        raise UserError(
            "--predict needs --shape, and --measured FILE for the nats: jointsampler benchmark "
            "--predict has speeds alone."
        )
    return predict(get_shape(args.shape), get_device(args.predict), args.batch, read(args.measured))


def _samplers(args: argparse.Namespace, teacher: Teacher) -> list[JointSampler]:
    wanted = args.sampler
    if wanted is None:
        wanted = [args.teacher] if args.teacher in EMBEDDED else []
    wanted = [name for name in wanted if name != "none"]
    return [JointSampler.from_pretrained(name).beside(teacher) for name in wanted]
