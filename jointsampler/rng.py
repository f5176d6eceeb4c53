"""Counter-based random numbers: a draw is a pure function of its purpose and keys.

``uniform(seed, row, position, stream)`` needs no generator state, so a sample
never depends on batch composition, padding, actor count, device or restarts.
The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood 2014), applied
once per key; int64 arithmetic wraps, as the algorithm requires.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Streams: the purpose of a draw. One number each, never reused.
TOKEN = 1  # the token revealed at a position
ORDER = 2  # the random order policy
ACCEPT = 3  # whether a drafted token is accepted
RESIDUAL = 4  # the token that replaces a rejected one
FAR = 11  # which far positions enter the loss
ROW = 12  # the row of a training state
START = 13  # the reveal at which a training state is cut
DEPTH = 14  # how many reveals a training state lies behind its opening
PROMPTED = 18  # which rows of a corpus keep their prompt
BOUND_COUNT = 21  # how many tokens a draw of a likelihood bound masks
BOUND_MASK = 22  # and which
RIVAL_SHARE = 41  # the masked share of a state that a rival learns from
RIVAL_MASK = 42  # which of its positions are masked
RIVAL_REVEAL = 43  # the position and the token that are revealed in it
RIVAL_BATCH = 44  # the states of a training step of a rival
RIVAL_WEIGHTS = 45  # its initial weights

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _signed(x: int) -> int:
    """The int64 that ``x`` wraps to."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _mix_number(x: int) -> int:
    """:func:`_mix` of a number on the host: no tensor, so no transfer to a device."""
    x = _signed((x ^ (x % (1 << 64) >> 30)) * _MIX_1)
    x = _signed((x ^ (x % (1 << 64) >> 27)) * _MIX_2)
    return _signed(x ^ (x % (1 << 64) >> 31))


def uniform(seed: int, *keys: Tensor | int) -> Tensor:
    """Uniform draws in (0, 1), float64, one per element of the broadcast keys (int64).

    On the device of the keys that are tensors, without a synchronisation.
    """
    state: Tensor | int = _mix_number(_signed(seed + _GOLDEN))
    for key in keys:
        mixed = state ^ key
        if isinstance(mixed, Tensor):
            state = _mix(mixed + _GOLDEN)
        else:
            state = _mix_number(_signed(mixed + _GOLDEN))
    if not isinstance(state, Tensor):
        state = torch.tensor(state)
    return (_shift_right(state, 11).double() + 0.5) * 2.0**-53
