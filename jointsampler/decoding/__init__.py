"""Decoding: one loop, four choices (order, stop rule, update, verification).

A method is a name for a combination of them; see ``methods.py``.
"""

from .generate import Generation, generate
from .methods import METHODS, get_method
from .orders import ORDERS, get_order

__all__ = ["METHODS", "ORDERS", "Generation", "generate", "get_method", "get_order"]
