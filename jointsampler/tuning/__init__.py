"""Tuning: the update, columns and k for a budget of nats per token, or for a speed, measured here.

``candidates.py`` lists what may be chosen, ``measure.py`` measures it once, ``situation.py``
keeps it, ``picking.py`` picks; ``auto.py`` resolves ``method="auto"``. The speed of a
method on other devices is left to ``benchmark/``.
"""

from .auto import generate
from .picking import BUDGET, frontier, pick
from .results import Candidate, Tuning
from .tuner import Choice, choose, tune

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
