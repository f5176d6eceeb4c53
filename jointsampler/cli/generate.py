"""Sample text from a teacher, with or without an update.

    jointsampler generate --sampler out/quickstart/sampler --k 4 "def main("
    jointsampler generate --method refresh --k 8 --watch "import os"
    jointsampler generate --method threshold --update refresh --set threshold=0.7 "class"
    jointsampler generate --method auto --set budget=0.02 "class"
    printf 'sort: bob ann ->\\ncopy: eve ->\\n' | jointsampler generate --method sequential --json

Prompts are arguments, or lines of stdin; without any, a sample is unconditional.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from ..decoding.cache import KINDS
from ..decoding.generate import Generation, generate
from ..decoding.methods import METHODS, get_method
from ..decoding.orders import ORDERS
from ..decoding.prompts import Prompt
from ..errors import UserError
from ..tuning.auto import AUTO, resolve
from .common import add_models, load_models, parse_settings, pick_update, updates_of
from .watch import LiveView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    parser.add_argument(
        "--method",
        help=f"{AUTO} (measured here: see tune), {', '.join(METHODS)} (default: joint, without a sampler "
        "sequential)",
    )
    parser.add_argument(
        "--update",
        choices=["none", "joint", "refresh"],
        help="between two reveals (default: the sampler or a refresh where the method needs one)",
    )
    parser.add_argument(
        "--k", type=int, help="tokens per full pass of the fixed methods (default: 4)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="a setting of the method's stop rule, or step_bound",
    )
    parser.add_argument("--num-samples", type=int, default=1, help="per prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--order", default="entropy", help=", ".join(ORDERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--block-length", type=int, help="finish the response in blocks of this length"
    )
    parser.add_argument("--cache", default="none", help=", ".join(KINDS))
    parser.add_argument(
        "--chat", action="store_true", help="a prompt is a user's turn in the chat template"
    )
    parser.add_argument(
        "--watch", action="store_true", help="see the text unmask, a colour per round"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per sample on stdout")


def read_prompts(args: argparse.Namespace) -> list[Prompt] | None:
    texts = list(args.prompts)
    if not texts and not sys.stdin.isatty():
        texts = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if args.chat:
        return [[{"role": "user", "content": text}] for text in texts] or None
    return texts or None


def run(args: argparse.Namespace) -> None:
    if args.method is not None:  # before anything is loaded
        parse_settings(args.set, args.method)
    if args.method == AUTO:
        _check_auto(args)
    elif args.k is not None and args.method is not None and not get_method(args.method).has_k:
        raise UserError(f"Method {args.method!r} has no k: leave --k out.")
    prompts = read_prompts(args)
    teacher, sampler = load_models(args)
    method = args.method or ("sequential" if sampler is None else "joint")
    settings = parse_settings(args.set, method)
    call = dict(
        num_samples=args.num_samples,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        order=args.order,
        seed=args.seed,
        block_length=args.block_length,
        cache=args.cache,
        stop_at_end=bool(teacher.end_ids),
        **settings,
    )
    if method == AUTO:
        choice, call = resolve(teacher, sampler, prompts, call | {"k": args.k}, _say)
        method, update = choice.method, choice.update
    else:
        update = pick_update(get_method(method), args.update, updates_of(args, sampler))
        call["k"] = 4 if args.k is None else args.k
    call["method"] = method
    if args.watch:
        with LiveView(teacher, Console(stderr=args.json)) as view:
            out = generate(teacher, update, prompts, on_reveal=view, **call)
    else:
        out = generate(teacher, update, prompts, **call)
    if args.json:
        show_json(out)
    elif not args.watch:  # the last picture of the live view shows the text
        show_text(teacher, out)
    print(account(out), file=sys.stderr)


def _check_auto(args: argparse.Namespace) -> None:
    """UserError for an option that method ``auto`` chooses itself."""
    for name in ("update", "columns", "policy"):
        if (value := getattr(args, name)) is not None:
            raise UserError(f"Method 'auto' chooses the update: leave out --{name} {value}.")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def show_text(teacher, out: Generation) -> None:
    for ids, text in zip(out.prompts, out.texts, strict=True):
        prompt = teacher.tokenizer.decode(ids[ids[:1] == [teacher.bos_id] :])
        print(f"{prompt}{text}")
        if len(out.texts) > 1:
            print("---")


def show_json(out: Generation) -> None:
    for n, text in enumerate(out.texts):
        record = {
            "row": int(out.rows[n]),
            "prompt_ids": out.prompts[n],
            "text": text,
            "tokens": out.responses[n].tolist(),
            "order": out.order[n].tolist(),
            "round": out.round[n].tolist(),
            "effective_tokens": int(out.effective_tokens[n]),
            "teacher_passes": int(out.teacher_passes[n]),
            "teacher_rows": int(out.teacher_rows[n]),
            "update_passes": int(out.update_passes[n]),
        }
        print(json.dumps(record))


def account(out: Generation) -> str:
    """The closing line: the cost of the samples."""
    tokens, passes, rows, updates = (
        int(getattr(out, name).sum())
        for name in ("effective_tokens", "teacher_passes", "teacher_rows", "update_passes")
    )
    verified = "" if rows == passes else f" ({rows} rows)"
    return (
        f"{tokens} tokens in {passes} full passes{verified} and {updates} updates: "
        f"{tokens / max(1, rows):.2f} tokens a row, {tokens / out.seconds:,.0f} tokens/s"
    )
