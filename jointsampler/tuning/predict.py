"""A measured tuning at the predicted speed of another device and shape. Nothing runs.

Nats keep their values: they are those of the teacher that was measured. Seconds come
from the cost model under a roofline (``benchmark/``), on a half-revealed response.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..benchmark.cases import UpdateCase
from ..benchmark.cost_model import CostModel
from ..benchmark.roofline import Device
from ..benchmark.shapes import Shape
from ..errors import UserError
from .candidates import seconds_by_rule, seconds_per_token
from .results import Candidate, Tuning

_ITEMSIZE = 2  # bytes: bfloat16


def read(file: str) -> Tuning:
    """The tuning in a file of ``jointsampler tune --out``; UserError where there is none."""
    try:
        data = json.loads(Path(file).expanduser().read_bytes())
        return Tuning.model_validate({k: v for k, v in data.items() if k != "pick"})
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"{file} is no readable tuning: write one with jointsampler tune --out FILE."
        ) from None


def predict(shape: Shape, device: Device, batch: int, measured: Tuning) -> Tuning:
    """The candidates of ``measured`` with predicted seconds, joint samplers left out.

    A file does not hold a sampler's shape. Raises UserError: batch < 1, a response
    that does not fit the shape's positions.
    """
    length, prompt = measured.key["length"], measured.key["prompt"]
    positions = length + max(1, prompt)
    if batch < 1:
        raise UserError(f"A batch has at least 1 row, not {batch}.")
    if positions > shape.max_length:
        raise UserError(
            f"{positions} positions do not fit the {shape.max_length} of {shape.name!r}: measure a "
            "shorter length."
        )
    model = CostModel(shape, batch, positions, _ITEMSIZE)
    masked = length // 2
    full = device.seconds(model.opening(masked))
    single = device.seconds(CostModel(shape, 1, positions, _ITEMSIZE).opening(masked))

    def priced(each: Candidate) -> Candidate:
        case = None if each.update == "none" else UpdateCase(None, each.columns, each.policy)
        update = device.seconds(model.update(case, masked))
        opening = device.seconds(model.opening(masked) + model.setup(case))
        if each.rule is None:
            token = seconds_per_token(opening, update, each.k, length, batch)
        else:
            token = seconds_by_rule(opening, single, update, each.reveals, length, batch)
        figures = {
            "update_seconds": update,
            "seconds_per_token": token,
            "speedup": full / batch / token,
        }
        return each.model_copy(update=figures)

    return measured.model_copy(
        update={
            "key": measured.key | {"batch": batch, "shape": shape.name},
            "predicted_for": device.name,
            "full_seconds": full,
            "single_seconds": single,
            "candidates": [priced(e) for e in measured.candidates if e.update != "joint"],
        }
    )
