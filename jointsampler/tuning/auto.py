"""The public ``generate``: decoding's own, and the method ``auto``, resolved before it decodes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from ..decoding import generate as decode
from ..decoding.generate import Generation, check_ends, check_length, check_rows
from ..decoding.prompts import Prompt
from ..decoding.sampling import Sampling
from ..errors import UserError, unknown_name
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import Update
from .picking import check_aim
from .situation import up_to_a_power_of_two
from .tuner import Choice, choose, tune

AUTO = "auto"
SETTINGS = ("budget", "speed")
# Arguments of ``generate`` that ``auto`` leaves as they are.
_PASSED = (
    "num_samples", "max_new_tokens", "temperature", "top_p", "order", "seed", "batch_size", "row_ids",
    "on_reveal", "stop_at_end",
)  # fmt: skip
log = logging.getLogger(__name__)


def resolve(
    teacher: Teacher,
    update: Update | JointSampler | None,
    prompts: Sequence[Prompt] | None,
    settings: Mapping[str, Any],
    progress: Callable[[str], None] = log.info,
) -> tuple[Choice, dict[str, Any]]:
    """The choice of method ``auto`` for a call, and the keywords for decoding, its settings among them.

    Rows count up to the next power of two, so that calls of about one size share a tuning.
    Raises UserError as :func:`generate`.
    """
    check_settings(settings)
    if not (update is None or isinstance(update, JointSampler)):
        raise UserError(
            "Method 'auto' chooses the update: pass a JointSampler as one more candidate, or none."
        )
    passed = {name: settings[name] for name in _PASSED if name in settings}
    # What decoding would refuse is refused before a minute of tuning.
    check_length(passed.get("max_new_tokens", 64))
    samples, most = passed.get("num_samples", 1), passed.get("batch_size", 64)
    check_rows(prompts, samples, most)
    check_ends(teacher, passed.get("stop_at_end", False))
    Sampling(passed.get("temperature", 1.0), passed.get("top_p", 1.0))
    rows = min(samples * (1 if prompts is None else len(prompts)), most)
    samplers = [] if update is None else [update]
    tuning = tune(
        teacher,
        up_to_a_power_of_two(rows),
        passed.get("max_new_tokens", 64),
        samplers,
        prompts=prompts,
        temperature=passed.get("temperature", 1.0),
        order=passed.get("order", "entropy"),
        progress=progress,
    )
    choice = choose(tuning, samplers, settings.get("budget"), settings.get("speed"))
    progress(f"auto: {choice.candidate.expected()}")
    return choice, passed | choice.settings


def check_settings(settings: Mapping[str, Any]) -> None:
    """UserError for keywords that contradict a choice by measurement, and for unknown ones."""
    if settings.get("k") is not None:
        raise UserError("Method 'auto' chooses k: leave k out, or name another method.")
    if settings.get("block_length") is not None or settings.get("cache", "none") != "none":
        raise UserError(
            "Method 'auto' is tuned on whole responses: leave out block_length and cache, or name "
            "another method."
        )
    for name in settings:
        if name not in (*_PASSED, *SETTINGS, "k", "block_length", "cache"):
            raise unknown_name("setting of method 'auto'", name, SETTINGS)
    check_aim(settings.get("budget"), settings.get("speed"))


@wraps(decode, assigned=("__name__",))  # shows the whole signature
def generate(
    teacher: Teacher,
    update: Update | JointSampler | None = None,
    prompts: Sequence[Prompt] | None = None,
    method: str = "joint",
    *args: Any,
    **settings: Any,
) -> Generation:
    """``decoding.generate`` with one method more.

    ``method="auto"`` takes method, update, columns and k from a tuning on this machine, which
    is measured on the first call for a teacher, batch and length and cached
    (``tuning/tuner.py``). ``budget``: nats per token that may be lost, by default 0.02,
    or ``speed``: times sequential. ``update``: a JointSampler is one more candidate.
    The returned ``method``, ``update`` and ``rule`` name the choice. All else is as in
    ``decoding.generate``.

    Raises UserError: as there; with ``auto`` also for k, block_length or cache, for
    budget and speed together, and for a speed out of reach.
    """
    if method != AUTO:
        return decode(teacher, update, prompts, method, *args, **settings)
    if args:
        raise UserError("Method 'auto' takes everything after the method by keyword.")
    choice, passed = resolve(teacher, update, prompts, settings)
    return decode(teacher, choice.update, prompts, choice.method, **passed)
