"""The settings that ``compare`` measures: every method with every update that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..decoding.methods import METHODS, Method


@dataclass(frozen=True)
class Setting:
    """A method, its update, and its knobs: k of the fixed ones, and the settings of rule and steps."""

    method: str
    update: str = "none"  # "none", "refresh" or "joint"
    k: int = 4
    rule: dict[str, float] = field(default_factory=dict)

    @property
    def knobs(self) -> dict[str, float]:
        return ({"k": self.k} if METHODS[self.method].has_k else {}) | self.rule


def default_grid(ks: Sequence[int], trained: bool) -> list[Setting]:
    """Every method with every update that it takes, at the settings that trace its frontier.

    ``trained``: whether there is a joint sampler.
    """
    rules = {
        "adaptive": ("budget", (0.01, 0.05, 0.2, 0.8)),
        "threshold": ("threshold", (0.9, 0.7, 0.5)),
        "factor": ("factor", (0.5, 1.0, 2.0)),
        "entropy_bound": ("bound", (0.1, 0.5, 2.0)),
    }
    grid = []
    for method in METHODS.values():
        for update in _updates(method, trained):
            if method.name in rules:
                knob, values = rules[method.name]
                grid += [Setting(method.name, update, 4, {knob: value}) for value in values]
            elif method.one_token:
                grid.append(Setting(method.name, update, 1))
            else:
                grid += [Setting(method.name, update, k) for k in ks if k > 1]
    return grid


def _updates(method: Method, trained: bool) -> list[str]:
    if method.update in ("none", "refresh"):
        return [method.update]
    able = ["refresh", *(["joint"] if trained else [])]
    if method.name == "joint":  # with a refresh it is the method "refresh"
        return able[1:]
    return able if method.update == "required" or method.verification else ["none", *able]
