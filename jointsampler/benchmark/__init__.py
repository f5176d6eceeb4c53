"""Speed: what a pass, an update and a whole response cost, measured or predicted.

``shapes.py`` makes teachers of a published shape with random weights; ``measure.py``
times the decoding loop itself; ``cost_model.py`` counts operations and bytes, and
``roofline.py`` turns them into predictions for a device that is not here.
``reference.py`` is the published recipe without any of this library's savings.
Nothing here says anything about fidelity: see ``evaluation/`` for that.
"""

from .cases import Grid, MethodCase, UpdateCase
from .measure import measure
from .predict import predict
from .results import Benchmark, Figure
from .shapes import SHAPES, Shape, random_teacher

__all__ = [
    "SHAPES",
    "Benchmark",
    "Figure",
    "Grid",
    "MethodCase",
    "Shape",
    "UpdateCase",
    "measure",
    "predict",
    "random_teacher",
]
