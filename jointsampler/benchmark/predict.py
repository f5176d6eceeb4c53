"""The benchmark's table for a device that is not here: the cost model under a roofline.

Nothing runs. Every figure is marked as predicted.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..environment import machine, packages
from ..evaluation.cost import timed_reveals_of
from .cases import Grid, MethodCase, UpdateCase
from .cost_model import CostModel, Work
from .results import Benchmark, Figure, Speed, Step
from .roofline import EFFICIENCY, Device
from .shapes import Shape

_PROMPT = 1  # position: the token that opens every sequence
_ITEMSIZE = 2  # bytes: bfloat16


def predict(shape: Shape, device: Device, grid: Grid) -> Benchmark:
    """``grid`` on a teacher of ``shape`` in bfloat16 on ``device``, by the cost model.

    Raises UserError where a response does not fit the shape's positions.
    """
    grid.check_fits(shape.name, shape.max_length)
    models = [
        (length, CostModel(shape, batch, length + _PROMPT, _ITEMSIZE))
        for length in grid.lengths
        for batch in grid.batches
    ]
    return Benchmark(
        teacher=shape.name,
        device=device.name,
        dtype="bfloat16",
        threads=None,
        predicted=True,
        efficiency=EFFICIENCY,
        policy=grid.policy,
        steps=[s for length, model in models for s in _steps(model, device, grid, length)],
        speeds=[s for length, model in models for s in _speeds(model, device, grid, length)],
        machine=machine(),
        packages=packages(),
    )


def step_work(
    model: CostModel, grid: Grid, length: int
) -> Iterator[tuple[UpdateCase | None, Work]]:
    """The work of a full pass (case None) and of every update, on a half-revealed response."""
    reveals = timed_reveals_of(length)
    masked = max(reveals, length // 2)
    # The masked positions fall by one per reveal.
    full = sum((model.opening(masked - r) for r in range(reveals)), Work())
    yield None, full * (1 / reveals)
    for case in grid.updates(model.shape.layers):
        later = sum((model.update(case, masked - r) for r in range(1, reveals)), Work())
        yield case, (later + model.setup(case)) * (1 / (reveals - 1))


def _steps(model: CostModel, device: Device, grid: Grid, length: int) -> Iterator[Step]:
    full: Work | None = None
    for case, work in step_work(model, grid, length):
        full = full or work
        seconds = device.seconds(work)
        yield Step(
            name="full pass" if case is None else case.name,
            batch=model.batch,
            length=length,
            seconds=Figure.prediction(seconds),
            ratio=seconds / device.seconds(full),
            operations=work.operations / full.operations,
            weight_bytes=work.weight_bytes / full.weight_bytes,
        )


def _speeds(model: CostModel, device: Device, grid: Grid, length: int) -> Iterator[Speed]:
    base: float | None = None
    for case in grid.methods(model.shape.layers):
        rate = model.batch * length / _response_seconds(model, device, case, length)
        base = base or rate
        yield Speed(
            name=case.name,
            k=case.k,
            reference=case.reference,
            batch=model.batch,
            length=length,
            tokens_per_second=Figure.prediction(rate),
            speedup=rate / base,
        )


def _response_seconds(model: CostModel, device: Device, case: MethodCase, length: int) -> float:
    """Rounds of k from an empty response; each pass meets the roofline on its own."""
    seconds = 0.0
    for done in range(0, length, case.k):
        reveals = min(case.k, length - done)
        masked = length - done
        if case.reference:
            first = model.full_pass() + model.head(model.positions)
            later = [model.recipe(case.update)] * (reveals - 1)
        else:
            first = model.opening(masked) + model.setup(case.update)
            later = [model.update(case.update, masked - r) for r in range(1, reveals)]
        seconds += sum(device.seconds(work) for work in (first, *later))
    return seconds
