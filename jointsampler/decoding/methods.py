"""Methods: names for combinations of a stop rule, an update and a verification.

The order policy is the caller's choice with every method. To add a method, add
a line to ``_ALL``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from ..errors import UserError, unknown_name
from ..sampler import JointSampler
from ..updates import NoUpdate, Refresh, Update, as_update
from .orders import OrderPolicy
from .sampling import Sampling
from .stops import Adaptive, EntropyBound, Factor, FixedK, StopRule, Threshold
from .strategy import Strategy
from .verify import Verification

STEP_BOUND = "step_bound"  # the setting of all methods with an update


@dataclass(frozen=True)
class Method:
    name: str
    rule: type[StopRule]
    # Whether tokens after a round's first follow the caller's update: never, with or without one,
    # only with one, or always by a Refresh.
    update: Literal["none", "optional", "required", "refresh"] = "optional"
    verification: Verification | None = None
    one_token: bool = False  # k is 1, whatever the caller's

    @property
    def has_k(self) -> bool:
        """Whether the method reads the caller's k."""
        return self.rule is FixedK and not self.one_token

    @property
    def has_steps(self) -> bool:
        """Whether several reveals may share an update."""
        return self.update != "none" and self.verification is None

    def check_settings(self, names: Iterable[str]) -> None:
        """UserError for a setting that neither the rule nor the method's steps have."""
        known = {field.name for field in fields(self.rule)} - {"limit"}
        if self.has_steps:
            known.add(STEP_BOUND)
        for name in names:
            if name == STEP_BOUND and not self.has_steps:
                raise UserError(
                    f"{STEP_BOUND} lets several reveals share an update, and method {self.name!r} "
                    + ("has none." if self.update == "none" else "needs one after every reveal.")
                )
            if name not in known and not known:
                raise UserError(f"Method {self.name!r} has no setting {name!r}: it has k alone.")
            if name not in known:
                raise unknown_name(f"setting of method {self.name!r}", name, known)

    def chosen_update(self, given: Update | JointSampler | None) -> Update:
        """The update of a call that was given ``given``; UserError where the method cannot use it."""
        if self.update == "none":
            return NoUpdate()
        if self.update == "refresh":
            chosen = Refresh() if given is None else given
            if not isinstance(chosen, Refresh):
                raise UserError(
                    f"Method {self.name!r} reruns the teacher's own layers: pass a Refresh, or no update."
                )
            return chosen
        update = as_update(given)
        if self.update == "required" and isinstance(update, NoUpdate):
            raise UserError(
                f"Method {self.name!r} needs an update: pass a JointSampler or Refresh(), or use "
                "method 'marginal'."
            )
        if self.rule is Adaptive and not update.estimates:
            raise UserError(
                f"Method {self.name!r} needs an update that estimates its own error: pass a "
                f"JointSampler or Refresh(), not {update.name!r}."
            )
        return update

    def stop(
        self, k: int, length: int, settings: Mapping[str, float], k_max: int | None = None
    ) -> StopRule:
        """The stop rule for responses of ``length``; a fixed rule takes k, the others their settings.

        ``k_max`` is the round length that the update's estimates are meant for.

        Raises UserError for a setting that the method does not have, or out of range.
        """
        self.check_settings(settings)
        limit = k if self.rule is FixedK else length
        if self.rule.estimates and k_max is not None:
            limit = min(limit, k_max)
        if not settings.get(STEP_BOUND, 0.0) >= 0:
            raise UserError(f"{STEP_BOUND} must be 0 nats or more, not {settings[STEP_BOUND]}.")
        own = {name: value for name, value in settings.items() if name != STEP_BOUND}
        return self.rule(limit=1 if self.one_token else limit, **own)

    def strategy(
        self,
        update: Update,
        k: int,
        length: int,
        settings: Mapping[str, float],
        order: OrderPolicy,
        sampling: Sampling,
        seed: int,
    ) -> Strategy:
        """Of responses of ``length``; ``update`` is that of :meth:`chosen_update`.

        The setting ``step_bound`` is in nats: reveals share an update while the sum of their
        entropies, without the largest, is at most that much. 0, the default: none do.

        Raises UserError for a setting that the method does not have, or out of range.
        """
        rule, step = self.stop(k, length, settings, update.k_max), None
        bound = settings.get(STEP_BOUND, 0.0)
        if bound and isinstance(update, NoUpdate):
            raise UserError(
                f"{STEP_BOUND} lets several reveals share an update, and there is none."
            )
        if bound:
            step = EntropyBound(length, bound)
        return Strategy(update, rule, order, sampling, seed, self.verification, step)


_ALL = [
    # One token per full pass: the true joint, the reference of every comparison.
    Method("sequential", FixedK, "none", one_token=True),
    # k tokens per full pass, each from its marginal: the baseline.
    Method("marginal", FixedK, "none"),
    # k tokens per full pass, an update between them.
    Method("joint", FixedK, "required"),
    # The same with the teacher's own layers at a few columns: no training.
    Method("refresh", FixedK, "refresh"),
    # Drafts like joint and keeps the tokens that the teacher confirms: exactly sequential.
    Method("lossless", FixedK, verification="strict"),
    # The same in the draft's order: exact conditionals, another order.
    Method("lossless_tokens", FixedK, verification="tokens"),
    # Reveals while the update's estimate of its own error stays below a budget.
    Method("adaptive", Adaptive, "required"),
    # From the literature; the file of each rule cites its source.
    Method("threshold", Threshold),
    Method("factor", Factor),
    Method("entropy_bound", EntropyBound),
]
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def get_method(name: str) -> Method:
    """The method called ``name``; UserError with the nearest name otherwise."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]
