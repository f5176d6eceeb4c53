"""Tuning and choosing, once per situation: the cache in front of the measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..decoding.generate import check_rows
from ..decoding.orders import get_order
from ..decoding.prompts import Prompt, encode_prompts
from ..decoding.sampling import Sampling
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import Refresh, Update
from .measure import check, measure
from .picking import pick
from .results import Candidate, Tuning
from .situation import Situation, fingerprint, keep, key_of, load, up_to_a_power_of_two

log = logging.getLogger(__name__)
LIMIT = 60.0  # seconds


@dataclass(frozen=True)
class Choice:
    """The arguments of ``generate`` that a tuning led to."""

    method: str
    update: Update | JointSampler | None
    settings: dict[str, int | float]  # k, or the stop rule's own
    candidate: Candidate
    tuning: Tuning


def tune(
    teacher: Teacher,
    batch: int,
    length: int,
    samplers: Sequence[JointSampler] = (),
    *,
    prompts: Sequence[Prompt] | None = None,
    temperature: float = 1.0,
    order: str = "entropy",
    limit: float = LIMIT,
    anew: bool = False,
    progress: Callable[[str], None] = log.info,
) -> Tuning:
    """Seconds and nats of every candidate for ``batch`` rows of ``length`` tokens, measured once.

    A second call finds the tuning in the user's cache folder ($JOINTSAMPLER_CACHE),
    unless ``anew``. It is found by teacher, samplers, device, dtype, threads, batch,
    length, temperature, order, versions, and the length of the longest prompt up to
    the next power of two: later prompts of about that length share the tuning
    of the first ones. A tuning that the limit cut short is measured again under a
    larger one.

    Raises UserError: no prompt in a list of them, a prompt, batch, length, limit or temperature out of range, a
    sampler of another teacher, an unknown order.
    """
    get_order(order)
    Sampling(temperature)
    check_rows(prompts, num_samples=1, batch_size=1)
    encoded = encode_prompts(teacher, prompts, length)
    longest = 0 if prompts is None else up_to_a_power_of_two(max(map(len, encoded)))
    prompt = min(longest, teacher.max_length - length)
    situation = Situation(batch, length, prompt, float(temperature), order)
    check(situation, limit)
    by_name = {fingerprint(sampler): sampler for sampler in samplers}
    for sampler in samplers:
        sampler.check_teacher(teacher)
    key = key_of(teacher, by_name, situation)
    found = None if anew else load(key)
    if found is None or (not found.complete and found.limit < limit):
        progress(f"tuning for batch {batch}, {length} tokens: no new walk after {limit:g} s")
        found = measure(teacher, situation, by_name, encoded, key, limit, progress)
        keep(found)
        if not found.complete:
            progress(f"the limit of {limit:g} s was met before every candidate was measured")
    return found


def choose(
    tuning: Tuning,
    samplers: Sequence[JointSampler] = (),
    budget: float | None = None,
    speed: float | None = None,
) -> Choice:
    """The pick of ``tuning`` as arguments of ``generate``; see :func:`picking.pick`."""
    best = pick(tuning.candidates, budget, speed)
    update: Update | JointSampler | None = None
    if best.update == "refresh":
        update = Refresh(best.columns, best.policy)
    elif best.update == "joint":
        update = next(each for each in samplers if fingerprint(each) == best.sampler)
    return Choice(best.method, None if best.k == 1 else update, best.settings, best, tuning)
