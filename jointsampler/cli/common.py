"""Arguments that several commands share: teacher, update, and settings of a stop rule."""

from __future__ import annotations

import argparse

import torch

from ..columns import POLICIES
from ..decoding.methods import Method, get_method
from ..errors import UserError
from ..sampler.model import EMBEDDED, JointSampler
from ..teachers import Teacher, load_teacher
from ..tuning.auto import AUTO, check_settings
from ..updates import Refresh, Update, joint_update


def add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher", default="tiny", help="embedded name, folder or hub id (default: tiny)"
    )
    parser.add_argument(
        "--sampler",
        default="auto",
        help="folder of a trained sampler, or none (default: the shipped one of a shipped teacher)",
    )
    parser.add_argument(
        "--columns",
        type=int,
        help="columns that an update recomputes (default: 8, or those that a sampler was trained with)",
    )
    parser.add_argument(
        "--policy",
        help=f"which columns: {', '.join(POLICIES)} (default: attention, or a sampler's own)",
    )
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)"
    )
    parser.add_argument(
        "--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"]
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="torch threads; 0 leaves torch's own"
    )


def load_models(args: argparse.Namespace) -> tuple[Teacher, JointSampler | None]:
    if args.threads:
        torch.set_num_threads(args.threads)
    teacher = load_teacher(args.teacher, args.device, args.dtype)
    sampler = None
    wanted = args.sampler
    if wanted == "auto":
        wanted = args.teacher if args.teacher in EMBEDDED else "none"
    if wanted != "none":
        sampler = JointSampler.from_pretrained(wanted).beside(teacher)
        sampler.check_teacher(teacher)
    return teacher, sampler


def updates_of(args: argparse.Namespace, sampler: JointSampler | None) -> dict[str, Update]:
    """The updates that a command can use, by name."""
    given = {name: getattr(args, name) for name in ("columns", "policy")}
    given = {name: value for name, value in given.items() if value is not None}
    found: dict[str, Update] = {"refresh": Refresh(**given)}
    if sampler is not None:
        found["joint"] = joint_update(sampler, **given)
    return found


def pick_update(method: Method, wanted: str | None, updates: dict[str, Update]) -> Update | None:
    """The update named ``wanted``, or the method's natural one; UserError where there is none.

    A method that can do without an update uses none unless one is named.
    """
    if wanted == "none":
        return None
    if wanted is not None:
        if wanted not in updates:
            raise UserError(f"--update {wanted} needs a sampler: give --sampler.")
        return updates[wanted]
    if method.update == "refresh":
        return updates["refresh"]
    if method.update == "required" or method.verification is not None:
        return updates.get("joint", None if method.name == "joint" else updates["refresh"])
    return None


def parse_settings(given: list[str], method: str) -> dict[str, float]:
    """``name=number`` pairs; UserError names a pair of another form, or one that the method lacks."""
    settings: dict[str, float] = {}
    for pair in given:
        name, separator, value = pair.partition("=")
        try:
            settings[name] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise UserError(f"--set {pair!r} is not name=number, for example --set budget=0.1.")
    if method == AUTO:
        check_settings(settings)
    else:
        get_method(method).stop(1, 1, settings)  # refuses names and values
    return settings
