"""Methods: names for combinations of a stop rule, a proposal and a verification.

The order policy is the caller's choice with every method. Any stop rule works
with the sampler in the inner loop: that is its ``joint_`` variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from ..errors import UserError, unknown_name
from .stops import Adaptive, EntropyBound, Factor, FixedK, Klass, StopRule, Threshold
from .verify import Verification


@dataclass(frozen=True)
class Method:
    name: str
    rule: type[StopRule]
    uses_sampler: bool = False  # the proposal: hidden states as they are, or after sampler passes
    verification: Verification | None = None
    one_token: bool = False  # k is 1, whatever the caller's

    @property
    def has_k(self) -> bool:
        """Whether the caller's k means anything to it."""
        return self.rule is FixedK and not self.one_token

    def check_settings(self, names: Iterable[str]) -> None:
        """UserError for a setting that the rule does not have."""
        known = {field.name for field in fields(self.rule)} - {"limit", "rows"}
        for name in names:
            if name not in known and not known:
                raise UserError(f"Method {self.name!r} has no setting {name!r}: it has k alone.")
            if name not in known:
                raise unknown_name(f"setting of method {self.name!r}", name, known)

    def stop(
        self,
        k: int | Sequence[int],
        length: int,
        settings: Mapping[str, float],
        k_max: int | None = None,
    ) -> StopRule:
        """The stop rule for responses of ``length``; a fixed rule takes k (one, or one a row), the
        others their settings.

        ``k_max`` is the block length that the sampler was trained for; an
        estimate is not trusted past it.

        Raises UserError for a setting that the rule does not have.
        """
        self.check_settings(settings)
        if self.has_k and not isinstance(k, int):
            return FixedK(limit=max(k), rows=tuple(k))
        limit = k if self.rule is FixedK else length
        if getattr(self.rule, "needs_estimate", False) and k_max is not None:
            limit = min(limit, k_max)
        return self.rule(limit=1 if self.one_token else limit, **settings)


_ALL = [
    # One token per teacher pass: the true joint, the reference for everything.
    Method("sequential", FixedK, one_token=True),
    # k tokens per teacher pass, each from its marginal: the baseline.
    Method("marginal", FixedK),
    # k tokens per teacher pass, k - 1 sampler passes between them.
    Method("joint", FixedK, uses_sampler=True),
    # Drafts like joint, keeps what the teacher confirms: the law of sequential, exactly.
    Method("lossless", FixedK, uses_sampler=True, verification="strict"),
    # The same along the sampler's order: exact conditionals, another order.
    Method("lossless_tokens", FixedK, uses_sampler=True, verification="tokens"),
    # As many tokens per teacher pass as the sampler itself thinks it gets right.
    Method("adaptive", Adaptive, uses_sampler=True),
    # From the literature, each with its source in the rule's file; and with the sampler.
    Method("threshold", Threshold),
    Method("joint_threshold", Threshold, uses_sampler=True),
    Method("factor", Factor),
    Method("joint_factor", Factor, uses_sampler=True),
    Method("entropy_bound", EntropyBound),
    Method("joint_entropy_bound", EntropyBound, uses_sampler=True),
    Method("klass", Klass),
    Method("joint_klass", Klass, uses_sampler=True),
]
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def get_method(name: str) -> Method:
    """The method called ``name``; UserError with the nearest name otherwise."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
