"""Methods: names for combinations of a stop rule, a proposal and a verification.

The order policy is the caller's choice with every method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import unknown_name
from .stop import FixedK, StopRule
from .verify import Verification


@dataclass(frozen=True)
class Method:
    name: str
    uses_sampler: bool  # the proposal: hidden states as they are, or after sampler passes
    stop: Callable[[int], StopRule]  # from k
    verification: Verification | None = None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        # One token per teacher pass: the true joint, the reference for everything.
        Method("sequential", uses_sampler=False, stop=lambda k: FixedK(1)),
        # k tokens per teacher pass, each from its marginal: the baseline.
        Method("marginal", uses_sampler=False, stop=FixedK),
        # k tokens per teacher pass, k - 1 sampler passes between them.
        Method("joint", uses_sampler=True, stop=FixedK),
        # Drafts like joint, keeps what the teacher confirms: the law of sequential, exactly.
        Method("lossless", uses_sampler=True, stop=FixedK, verification="strict"),
        # The same along the sampler's order: exact conditionals, another order.
        Method("lossless_tokens", uses_sampler=True, stop=FixedK, verification="tokens"),
    )
}


def get_method(name: str) -> Method:
    """The method called ``name``; UserError with the nearest name otherwise."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
