"""The work of a full pass and of an update, counted from a shape alone.

Two currencies (``docs/evaluation.md``): operations, two per multiplication and
addition of a matrix product; and bytes, of the weights that are read and of the
keys, values and queries that are read or written. The counts are of what the
decoding loop does, policy and LM head included. Norms, rotary angles, softmax,
sorting and draws are not counted. Nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..columns import get_policy
from ..teachers.keyvalues import queried
from .cases import UpdateCase
from .shapes import Shape


@dataclass(frozen=True)
class Work:
    operations: float = 0.0
    weight_bytes: float = 0.0  # weights read
    state_bytes: float = 0.0  # keys, values and queries read or written

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.state_bytes

    def __add__(self, other: Work) -> Work:
        return Work(
            self.operations + other.operations,
            self.weight_bytes + other.weight_bytes,
            self.state_bytes + other.state_bytes,
        )

    def __mul__(self, factor: float) -> Work:
        return Work(self.operations * factor, self.weight_bytes * factor, self.state_bytes * factor)


@dataclass(frozen=True)
class CostModel:
    """Work on ``batch`` rows of ``positions`` positions, the prompt included.

    ``itemsize``: bytes of one number of the teacher.
    """

    shape: Shape
    batch: int
    positions: int
    itemsize: int

    def layers(self, count: int, columns: int) -> Work:
        """The lowest ``count`` layers at ``columns`` columns, on the keys of all positions."""
        shape = self.shape
        width = shape.heads * shape.head_dim
        attention = 2 * columns * self.positions * width
        keys = 2 * self.positions * shape.kv_heads * shape.head_dim
        return Work(
            2 * count * self.batch * (columns * shape.layer_matrix + attention),
            count * shape.layer_parameters * self.itemsize,
            count * self.batch * keys * self.itemsize,
        )

    def head(self, positions: int) -> Work:
        """The LM head at ``positions`` positions of every row."""
        weights = self.shape.embedding
        return Work(2 * self.batch * positions * weights, weights * self.itemsize)

    def full_pass(self) -> Work:
        """All layers and the final norm at all positions, without the LM head."""
        norm = Work(weight_bytes=self.shape.hidden * self.itemsize)
        return self.layers(self.shape.layers, self.positions) + norm

    def opening(self, scored: int) -> Work:
        """A full pass and the LM head at the ``scored`` positions, of which one is drawn."""
        return self.full_pass() + self.head(scored)

    def setup(self, case: UpdateCase | None) -> Work:
        """What the first full pass of a round costs more for ``case``, once per round."""
        if case is None or case.columns is None:
            return Work()
        shape = self.shape
        heads = shape.heads * shape.head_dim
        keys = 2 * self.positions * shape.kv_heads * shape.head_dim
        stored = Work(state_bytes=shape.layers * self.batch * keys * self.itemsize)
        layers = queried(get_policy(case.policy).keeps, shape.layers)
        queries = layers * self.batch * self.positions * heads
        stored += Work(2 * queries * self.positions, 0, queries * self.itemsize)
        if case.depth:  # the trained layer's keys of all positions and of the slot for none
            stored += self._trained_keys(case.depth, self.positions + 1)
        return stored

    def update(self, case: UpdateCase | None, masked: int) -> Work:
        """An update with ``masked`` positions left, and the choice of the next token."""
        if case is None:
            return self.head(1)
        if case.columns is None:
            every = self.positions
            return self._trained(0, every, every) + self.head(masked)
        columns = min(case.columns, self.positions)
        # A family shifted by one has a place for a row's first position: see updates/at_columns.py.
        served = columns + (self.shape.shift > 0)
        work = self._peek(case) + self.layers(case.depth or self.shape.layers, columns)
        if case.depth:
            work += self._trained(case.depth, served, self.positions + 1)
        # With the best of the positions that did not move: see decoding/scoring.py.
        return work + self.head(served + 1)

    def recipe(self, case: UpdateCase | None) -> Work:
        """A pass of the plain recipe after the first: the LM head at all positions."""
        trained = self._trained(case.depth or 0, self.positions, self.positions) if case else Work()
        return trained + self.head(self.positions)

    def _peek(self, case: UpdateCase) -> Work:
        """The revealed column in the lower layers, and what every query pays to it."""
        shape = self.shape
        layers = queried(get_policy(case.policy).keeps, shape.layers)
        queries = layers * self.batch * self.positions * shape.heads * shape.head_dim
        return self.layers(layers, 1) + Work(2 * queries, 0, queries * self.itemsize)

    def _sampler(self, depth: int) -> tuple[int, int]:
        """(weights read for keys, weights of all matrices) of a sampler as wide as the teacher."""
        hidden = self.shape.hidden
        keys = (3 if depth else 2) * hidden**2 + 3 * hidden**2
        intermediate = max(8, round(self.shape.intermediate / 8) * 8)
        return keys, keys + 2 * hidden**2 + 3 * hidden * intermediate

    def _trained_keys(self, depth: int, positions: int) -> Work:
        weights, _ = self._sampler(depth)
        states = 2 * self.batch * positions * self.shape.hidden
        return Work(
            2 * self.batch * positions * weights, weights * self.itemsize, states * self.itemsize
        )

    def _trained(self, depth: int, positions: int, keys: int) -> Work:
        """The trained layer at ``positions`` positions on the keys of ``keys``."""
        _, weights = self._sampler(depth)
        hidden = self.shape.hidden
        attention = 2 * positions * keys * hidden
        return Work(
            2 * self.batch * (positions * weights + attention),
            weights * self.itemsize,
            2 * self.batch * keys * hidden * self.itemsize,
        )
