"""Measure or predict speed: full passes, updates and whole responses, as a table.

    jointsampler benchmark
    jointsampler benchmark --shape dream-7b --batch 1 8 --length 64 128 --predict h100

Without --predict, everything is timed here, on random weights of a shape or on a
teacher that you name. With --predict nothing runs: a cost model and the peaks of the
named device give each figure, and each is marked as predicted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ..benchmark import SHAPES, Benchmark, Grid, Shape, measure, predict, random_teacher
from ..benchmark.roofline import DEVICES, get_device
from ..benchmark.shapes import get_shape
from ..columns import POLICIES
from ..errors import UserError
from ..storage import make_folder, write_json
from ..teachers import Teacher, load_teacher
from ..teachers.load import placement
from .common import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    grid = Grid()
    parser.add_argument("--shape", help=f"random weights: {', '.join(SHAPES)} (default: tiny)")
    parser.add_argument("--teacher", help="or a teacher: embedded name, folder or hub id")
    parser.add_argument("--batch", type=int, nargs="+", default=grid.batches, help="rows")
    parser.add_argument("--length", type=int, nargs="+", default=grid.lengths, help="of responses")
    parser.add_argument("--k", type=int, nargs="+", default=grid.ks, help="tokens per full pass")
    parser.add_argument(
        "--columns", type=int, nargs="+", default=grid.columns, help="that an update recomputes"
    )
    parser.add_argument(
        "--policy", default=grid.policy, help=f"which columns: {', '.join(POLICIES)}"
    )
    parser.add_argument("--repeats", type=int, default=grid.repeats, help="after one to warm up")
    add_device(parser)
    parser.add_argument(
        "--predict", metavar="DEVICE", help=f"run nothing: {', '.join(DEVICES)}, in bfloat16"
    )
    parser.add_argument("--out", help="file for the result as JSON")


def run(args: argparse.Namespace) -> None:
    if args.shape is not None and args.teacher is not None:
        raise UserError("--shape makes a teacher and --teacher names one: give one of them.")
    if args.threads < 0:
        raise UserError(f"--threads must be at least 0, not {args.threads}.")
    out = _file(args.out)
    grid = Grid(args.batch, args.length, args.k, args.columns, args.policy, args.repeats)
    result = _measured(args, grid) if args.predict is None else _predicted(args, grid)
    print(result.table())
    if out is not None:
        write_json(out, result.model_dump())
        print(f"wrote {out}")


def _file(given: str | None) -> Path | None:
    """The file to write, its folder made before anything is timed."""
    if given is None:
        return None
    out = Path(given).expanduser()
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file.")
    make_folder(out.parent)
    return out


def _predicted(args: argparse.Namespace, grid: Grid) -> Benchmark:
    device = get_device(args.predict)
    if args.device != "auto":
        raise UserError(f"--predict {device.name} runs nothing: leave out --device {args.device}.")
    if args.dtype not in ("auto", "bfloat16"):
        raise UserError(f"--predict knows the devices' bfloat16 peaks, not those of {args.dtype}.")
    if args.teacher is None:
        return predict(get_shape(args.shape or "tiny"), device, grid)
    return predict(Shape.of(load_teacher(args.teacher, "meta")), device, grid)


def _measured(args: argparse.Namespace, grid: Grid) -> Benchmark:
    if args.threads:
        torch.set_num_threads(args.threads)
    return measure(_teacher(args, grid), grid, lambda said: print(said, file=sys.stderr))


def _teacher(args: argparse.Namespace, grid: Grid) -> Teacher:
    if args.teacher is not None:
        return load_teacher(args.teacher, args.device, args.dtype)
    shape = get_shape(args.shape or "tiny")
    grid.check_fits(shape.name, shape.max_length)  # before the weights are made
    return random_teacher(shape, *placement(args.device, args.dtype))
