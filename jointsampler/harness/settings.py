"""The arguments of the model (``--model_args``) and of a generation (``generation_kwargs``), checked.

Which method decodes, and how, is told by the model's arguments; how long and how
greedily, by the task's generation arguments, which anyone can change by ``--gen_kwargs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ..decoding.cache import CacheKind
from ..decoding.methods import get_method
from ..errors import UserError, unknown_name
from ..tuning import auto


class Settings(BaseModel):
    """``--model_args``; the names are those of ``jointsampler generate``."""

    model_config = ConfigDict(frozen=True, extra="allow")  # what is left is for the stop rule

    teacher: str = "tiny"
    sampler: str = "auto"  # folder, "none", or "auto": the shipped one of a shipped teacher
    method: str | None = None  # joint, without a sampler sequential
    update: str | None = None  # "none", "joint" or "refresh"
    columns: int | None = None  # 8, or those that the sampler was trained with
    policy: str | None = None  # attention, or the sampler's own
    k: int | None = None  # 4, except with method auto
    order: str = "entropy"
    block_length: int | None = None
    cache: CacheKind = "none"
    temperature: float = 0.0  # where the task states neither do_sample nor a temperature: greedy
    top_p: float = 1.0  # where the task states none
    max_gen_toks: int = 256  # where the task states none, the length of a response
    likelihood_draws: int = 128  # of masks, per likelihood
    seed: int = 0
    batch_size: int = 1
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0

    @property
    def rule_settings(self) -> dict[str, float]:
        """The settings of the stop rule, or of method ``auto``."""
        return dict(self.model_extra or {})


def read_settings(given: Mapping[str, Any]) -> Settings:
    """UserError names the argument that is unknown or has no value of its type."""
    # The harness reads "none" as None; to us it is a name.
    given = {
        name: "none" if value is None and name in ("sampler", "update") else value
        for name, value in given.items()
    }
    # The harness passes its own default, also on a machine without a GPU.
    if given.get("device") == "cuda:0" and not torch.cuda.is_available():
        given["device"] = "auto"
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name, value = first["loc"][0], first["input"]
        raise UserError(
            f"--model_args {name}={value!r} is no value for {name}: {first['msg']}."
        ) from None
    if settings.method is not None:
        check_rule_settings(settings, settings.method)
    return settings


def check_rule_settings(settings: Settings, method: str) -> None:
    """UserError for an argument that neither the model nor the method has."""
    for name, value in settings.rule_settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"--model_args {name}={value!r}: a method's setting is a number.")
    if method == auto.AUTO:
        auto.check_settings(settings.rule_settings)
    else:
        get_method(method).check_settings(settings.rule_settings)


@dataclass(frozen=True)
class Wanted:
    """What a request asks of a generation."""

    max_new_tokens: int
    temperature: float
    top_p: float
    until: tuple[str, ...]

    def cut(self, text: str) -> str:
        """The text before the first stop string."""
        ends = [place for stop in self.until if stop and (place := text.find(stop)) >= 0]
        return text[: min(ends, default=len(text))]


_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = ("until", "do_sample", "temperature", "top_p", *_LENGTHS)
# Arguments that change nothing at these values.
_IDLE = {"num_beams": (1,), "top_k": (0, -1, None), "repetition_penalty": (1, 1.0, None)}


def read_wanted(given: Mapping[str, Any], settings: Settings) -> Wanted:
    """A task's ``generation_kwargs``, completed by the model's settings.

    ``do_sample: false`` is greedy, whatever the temperature. Raises UserError for an
    argument that the decoding does not have.
    """
    for name, value in given.items():
        if name not in _KNOWN and value not in _IDLE.get(name, ()):
            if name in _IDLE:
                raise UserError(
                    f"The generation argument {name}={value!r} has no counterpart here: --gen_kwargs "
                    f"{name}={_IDLE[name][0]} leaves it out."
                )
            raise unknown_name("generation argument", name, _KNOWN)
    until = given.get("until") or ()
    length = next((given[n] for n in _LENGTHS if given.get(n) is not None), settings.max_gen_toks)
    temperature, sample = given.get("temperature"), given.get("do_sample")
    if temperature is None:
        temperature = settings.temperature or float(bool(sample))
    if sample is False:
        temperature = 0.0
    top_p = given.get("top_p")
    return Wanted(
        int(length),
        float(temperature),
        settings.top_p if top_p is None else float(top_p),
        (until,) if isinstance(until, str) else tuple(until),
    )
