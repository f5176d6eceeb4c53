"""Tuning: the update, columns and k for a budget of nats per token, or for a speed, measured here.

``candidates.py`` lists what may be chosen, ``measure.py`` measures it once, ``situation.py``
keeps it, ``choose.py`` picks; ``generate.py`` resolves ``method="auto"``. The speed of a
method on other devices is left to ``benchmark/``.
"""

from .choose import BUDGET, frontier, pick
from .generate import generate
from .results import Candidate, Tuning
from .tune import Choice, choose, tune

__all__ = [
    "BUDGET",
    "Candidate",
    "Choice",
    "Tuning",
    "choose",
    "frontier",
    "generate",
    "pick",
    "tune",
]
