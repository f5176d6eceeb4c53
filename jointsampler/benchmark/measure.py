"""The benchmark on the machine at hand: the decoding loop itself, timed in one process.

All cases of one batch and length take turns, repetition by repetition, so that a
busy machine slows all alike. A first turn warms up: of the steps a whole one, of the
responses, which run the same steps, one round. Samplers are untrained, which
changes their tokens and not their speed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch

from ..decoding.generate import generate
from ..environment import machine, packages
from ..errors import UserError
from ..evaluation.cost import step_seconds
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import Refresh, Update, joint_update
from .cases import SHORTEST, Grid, MethodCase, UpdateCase
from .cost_model import CostModel, Work
from .predict import step_work
from .reference import reference_seconds
from .results import Benchmark, Figure, Speed, Step
from .shapes import Shape


def measure(
    teacher: Teacher, grid: Grid, progress: Callable[[str], None] = lambda said: None
) -> Benchmark:
    """``grid`` with ``teacher``, on its device.

    ``progress`` is called with a line before every batch and length. Raises UserError:
    a response that does not fit the teacher, a teacher that cannot rerun columns, too
    little memory on the device.
    """
    grid.check_fits(teacher.name, teacher.max_length)
    with _fitting("The joint samplers", teacher.device):
        samplers = {
            case.depth: JointSampler.for_teacher(teacher, depth=case.depth).beside(teacher).eval()
            for case in grid.updates(teacher.layers)
            if case.depth is not None
        }
    steps: list[Step] = []
    speeds: list[Speed] = []
    for length in grid.lengths:
        for batch in grid.batches:
            progress(f"batch {batch}, {length} tokens")
            with _fitting(f"A batch of {batch} rows of {length} tokens", teacher.device):
                steps += _steps(teacher, samplers, grid, batch, length)
                speeds += _speeds(teacher, samplers, grid, batch, length)
    return Benchmark(
        teacher=teacher.name,
        device=str(teacher.device),
        dtype=_dtype(teacher),
        threads=torch.get_num_threads(),
        predicted=False,
        efficiency=None,
        policy=grid.policy,
        steps=steps,
        speeds=speeds,
        machine=machine(),
        packages=packages(),
    )


@contextlib.contextmanager
def _fitting(what: str, device: torch.device) -> Iterator[None]:
    """UserError where the device runs out of memory inside."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"{what} and the teacher exceed the memory of {device}: choose a smaller shape, --batch or "
            "--length."
        ) from None


def _dtype(teacher: Teacher) -> str:
    probe = torch.full((1, 1), teacher.mask_id, device=teacher.device)
    return str(teacher.embed(probe).dtype).removeprefix("torch.")


def _update(case: UpdateCase | None, samplers: dict[int, JointSampler]) -> Update | None:
    if case is None:
        return None
    if case.depth is None:
        return Refresh(case.columns, case.policy)
    return joint_update(samplers[case.depth], case.columns, case.policy)


def _steps(
    teacher: Teacher, samplers: dict[int, JointSampler], grid: Grid, batch: int, length: int
) -> Iterator[Step]:
    cases = grid.updates(teacher.layers)
    updates = [_update(case, samplers) for case in cases]
    full, later = step_seconds(teacher, updates, batch, length, repeats=grid.repeats)
    work = _model_work(teacher, grid, batch, length)
    for case, seconds in zip([None, *cases], [full, *later], strict=True):
        yield Step(
            name="full pass" if case is None else case.name,
            batch=batch,
            length=length,
            seconds=Figure.measured(seconds),
            ratio=median(seconds) / median(full),
            operations=work and work[case].operations / work[None].operations,
            weight_bytes=work and work[case].weight_bytes / work[None].weight_bytes,
        )


def _model_work(
    teacher: Teacher, grid: Grid, batch: int, length: int
) -> dict[UpdateCase | None, Work] | None:
    """The cost model's work of every step; None where it does not cover the teacher's network."""
    try:
        shape = Shape.of(teacher)
    except UserError:
        return None
    positions = length + (teacher.bos_id is not None)
    model = CostModel(shape, batch, positions, getattr(torch, _dtype(teacher)).itemsize)
    return dict(step_work(model, grid, length))


def _speeds(
    teacher: Teacher, samplers: dict[int, JointSampler], grid: Grid, batch: int, length: int
) -> Iterator[Speed]:
    cases = grid.methods(teacher.layers)
    for case in cases:
        _timer(teacher, samplers, case, batch, max(case.k, SHORTEST))()  # warms up
    timers = [_timer(teacher, samplers, case, batch, length) for case in cases]
    turns = [[timer() for timer in timers] for _ in range(grid.repeats)]
    base: float | None = None
    for case, seconds in zip(cases, zip(*turns, strict=True), strict=True):
        rates = [batch * length / each for each in seconds]
        base = base or median(rates)
        yield Speed(
            name=case.name,
            k=case.k,
            reference=case.reference,
            batch=batch,
            length=length,
            tokens_per_second=Figure.measured(rates),
            speedup=median(rates) / base,
        )


def _timer(
    teacher: Teacher,
    samplers: dict[int, JointSampler],
    case: MethodCase,
    batch: int,
    length: int,
) -> Callable[[], float]:
    """A call that decodes whole responses and returns its seconds."""
    if case.reference:
        sampler = None if case.update is None else samplers[0]
        return partial(reference_seconds, teacher, sampler, batch, length, case.k)
    call = partial(
        generate,
        teacher,
        _update(case.update, samplers),
        method=case.method,
        k=case.k,
        num_samples=batch,
        max_new_tokens=length,
        batch_size=batch,
    )
    return lambda: call().seconds
