"""The outputs of a network's layers: noted while it runs, and a way to stop below the top.

transformers' own ``output_hidden_states`` gives the last layer's output only behind
the final norm, and runs every layer. A hybrid sampler continues from what comes
before the norm, and needs the lower layers alone. Layers are numbered by the order
of their calls, from 1: ALBERT calls one shared layer many times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class _Pass:
    noted: dict[int, Tensor | None]
    stop: int | None = None
    calls: int = 0


class _Reached(Exception):
    """The layer at which a pass was to stop has run."""

    def __init__(self, output: Tensor):
        self.output = output


_ACTIVE: ContextVar[_Pass | None] = ContextVar("jointsampler_layer_outputs", default=None)


def watch(layers: Iterable[nn.Module]) -> None:
    """Let this file's other functions see the outputs of ``layers``. Once per network."""
    for layer in layers:
        layer.register_forward_hook(_after)


def _after(module: nn.Module, args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
    current = _ACTIVE.get()
    if current is None:
        return
    current.calls += 1
    output = output[0] if isinstance(output, tuple) else output
    if current.calls in current.noted:
        current.noted[current.calls] = output
    if current.calls == current.stop:
        raise _Reached(output)


@contextlib.contextmanager
def _active(current: _Pass) -> Iterator[None]:
    token = _ACTIVE.set(current)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


@contextlib.contextmanager
def noting(layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """A pass in this context notes the outputs of the layers with these numbers, in this order."""
    current = _Pass(dict.fromkeys(layers))
    with _active(current):
        yield current.noted


def lowest(depth: int, run: Callable[[], object]) -> Tensor:
    """The output of layer ``depth`` in the pass that ``run`` makes; no layer above it runs."""
    try:
        with _active(_Pass({}, stop=depth)):
            run()
    except _Reached as reached:
        return reached.output
    raise ValueError(f"The network has no layer {depth}.")
