"""KL to the true joint: one meter for every method, reveal by reveal.

A method decodes, and before every reveal the meter computes the teacher's exact
conditional at the position about to be revealed. Each reveal after a round's
first adds KL(teacher || method) there; a round's first reveal comes from the full
pass and adds nothing. The way through a trajectory is one of

- ``recorded``: the trajectory's positions and tokens,
- ``own``: the method's own positions, the trajectory's tokens there,
- ``sampled``: the method's own positions and tokens.

With k reveals per round, the KL per round is D_k = E[sum_{j<k} KL_j]. For the
marginal model it is the conditional total correlation of the round.
**Captured dependency** = 1 - D_k(update) / D_k(marginal): 0 is the marginal model,
1 the true joint. Positions behind a row's end are never counted.

Temperature divides all logits before the comparison. Top-p plays no part, because
distributions with different supports have no finite KL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from ..corpus.trajectories import Paths, Trajectories
from ..decoding.canvas import Canvas
from ..decoding.generate import Generation, end_positions
from ..decoding.loop import Decoder
from ..decoding.orders import get_order
from ..decoding.sampling import Sampling
from ..decoding.stops import FixedK
from ..decoding.strategy import Choice, Script, Strategy
from ..divergence import forward_kl
from ..errors import UserError
from ..memory import BatchSize, in_batches
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import NoUpdate, Update, as_update
from .results import KLPath
from .stats import Interval, bootstrap


@dataclass(frozen=True)
class Walk:
    """One method's way through n trajectories of L positions, by reveal r."""

    nats: np.ndarray  # [n, L] float64, KL(teacher || method) of reveal r; 0 where none was made
    position: np.ndarray  # [n, L] int64, in the response; -1 where none was made
    round: np.ndarray  # [n, L] int64; -1 where none was made
    counted: np.ndarray  # [n, L] bool, reveals up to and with the row's end
    estimates: np.ndarray  # [n, L] float64, the update's estimate of nats; nan without one
    teacher_passes: np.ndarray  # [n] int64
    update_passes: np.ndarray  # [n] int64

    @staticmethod
    def joined(parts: Sequence[Walk]) -> Walk:
        """The walks of all rows of ``parts``, which have one length L."""
        names = [field.name for field in fields(Walk)]
        return Walk(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})

    def units(self) -> np.ndarray:
        """[n, 2]: counted nats and counted tokens of each trajectory."""
        return np.stack([(self.nats * self.counted).sum(1), self.counted.sum(1)], axis=1)

    def nats_per_token(self) -> Interval:
        """Interval over trajectories."""
        return bootstrap(lambda m: m[..., 0] / m[..., 1], self.units())

    def tokens(self) -> int:
        return int(self.counted.sum())

    def guesses(self) -> np.ndarray:
        """[m, 2]: the estimates and the true KLs where there are both."""
        both = self.counted & ~np.isnan(self.estimates)
        return np.stack([self.estimates[both], self.nats[both]], axis=1)


@dataclass(frozen=True)
class BlockKL:
    """The KL of rounds of k reveals."""

    k: int
    marginal: Interval  # nats per round
    update: Interval | None  # nats per round; None without an update
    captured: Interval | None  # 1 - update / marginal
    rounds: float  # counted reveals / k
    # [n, 4]: nats of the marginal, of the update (nan without), rounds of the one, of the other.
    per_trajectory: np.ndarray
    walks: tuple[Walk, Walk | None] | None = None  # of the marginal model and of the update

    @staticmethod
    def joined(parts: Sequence[BlockKL]) -> BlockKL:
        """All rows of ``parts``, which have one k and walks."""
        whole = summarize(parts[0].k, np.concatenate([part.per_trajectory for part in parts]))
        base, own = zip(*(part.walks for part in parts), strict=True)
        walks = Walk.joined(base), None if None in own else Walk.joined(own)
        return replace(whole, walks=walks)


def summarize(k: int, per_trajectory: np.ndarray) -> BlockKL:
    """Intervals over trajectories, paired; per_trajectory [n, 4] as in :class:`BlockKL`."""
    rounds = float(per_trajectory[:, 2].sum())
    marginal = bootstrap(lambda m: m[..., 0] / m[..., 2], per_trajectory)
    if np.isnan(per_trajectory[:, 1]).any():
        return BlockKL(k, marginal, None, None, rounds, per_trajectory)
    return BlockKL(
        k,
        marginal,
        bootstrap(lambda m: m[..., 1] / m[..., 3], per_trajectory),
        bootstrap(lambda m: 1 - m[..., 1] / m[..., 3] / (m[..., 0] / m[..., 2]), per_trajectory),
        rounds,
        per_trajectory,
    )


class Reference:
    """Trajectories with everything that does not depend on the update, computed once for many walks.

    That is the teacher's states at each recorded reveal, and the marginal model's walks.
    """

    def __init__(
        self, teacher: Teacher, trajectories: Trajectories, batch_size: int | BatchSize = 128
    ):
        trajectories.check_teacher(teacher)
        self.teacher, self.trajectories, self.batch_size = teacher, trajectories, batch_size
        made = in_batches(
            batch_size,
            len(trajectories),
            lambda part: _recorded_states(teacher, trajectories.select(part)),
        )
        self.states = torch.cat(made, dim=1)  # [L, N, H], before each recorded reveal
        self._marginal: dict[tuple[int, KLPath, float, str], Walk] = {}

    def marginal(self, k: int, path: KLPath, temperature: float, order: str) -> Walk:
        """The marginal model's walk with k reveals per round."""
        key = (k, path, temperature, order)
        if key not in self._marginal:
            strategy = fixed_rounds(NoUpdate(), k, order, self.trajectories.seed)
            self._marginal[key] = self.walk(strategy, path, temperature)
        return self._marginal[key]

    def walk(self, strategy: Strategy, path: KLPath, temperature: float) -> Walk:
        """:func:`walk` along these trajectories."""
        return walk(
            self.teacher, strategy, self.trajectories, path=path, temperature=temperature,
            batch_size=self.batch_size, reference=self,
        )  # fmt: skip


@torch.inference_mode()
def _recorded_states(teacher: Teacher, rows: Trajectories) -> Tensor:
    """[L, B, H]: the teacher's state at the position revealed next, before each reveal."""
    paths = Paths.of(rows, teacher)
    batch, length = paths.order.shape
    each = torch.arange(batch, device=teacher.device)
    states = []
    for step in range(length):
        t = torch.full((batch,), step, device=teacher.device)
        hidden = teacher.hidden(paths.state(t), paths.attention_mask)
        column = paths.start + paths.order[:, step].clamp_min(0)
        states.append(hidden[each, column, : teacher.hidden_size])
    return torch.stack(states)


class _Meter:
    """Observes one canvas while it is decoded."""

    def __init__(
        self, teacher: Teacher, canvas: Canvas, temperature: float, recorded: Tensor | None
    ):
        self.teacher, self.canvas, self.temperature = teacher, canvas, temperature
        self.recorded = recorded  # [L, B, H], or None: a teacher pass at every state
        self._each = torch.arange(len(canvas.rows), device=canvas.ids.device)
        self.nats = torch.zeros(canvas.masked.shape, dtype=torch.float64, device=canvas.ids.device)
        self.estimates = torch.full_like(self.nats, torch.nan)

    def __call__(self, choice: Choice) -> None:
        if choice.reveal == 0:  # the method's logits are the teacher's
            return
        slot = self.canvas.revealed.clamp_max(self.canvas.length - 1)
        truth = torch.log_softmax(self._truth(choice, slot) / self.temperature, dim=-1)
        kl = forward_kl(truth, choice.logits / self.temperature).double()
        self._write(self.nats, slot, kl, choice.active)
        if choice.estimate is not None:
            self._write(self.estimates, slot, choice.estimate.double(), choice.active)

    def _truth(self, choice: Choice, slot: Tensor) -> Tensor:
        """[B, V] the teacher's logits at the position about to be revealed."""
        if self.recorded is not None:
            return self.teacher.logits(self.recorded[slot, self._each])
        states = self.teacher.hidden(self.canvas.ids, self.canvas.attention_mask)
        return self.teacher.logits(states[self._each, self.canvas.start + choice.position])

    def _write(self, record: Tensor, slot: Tensor, value: Tensor, active: Tensor) -> None:
        record[self._each, slot] = torch.where(active, value, record[self._each, slot])


def walk(
    teacher: Teacher,
    strategy: Strategy,
    trajectories: Trajectories,
    *,
    path: KLPath = "recorded",
    temperature: float = 1.0,
    batch_size: int | BatchSize = 128,
    reference: Reference | None = None,
    block_length: int | None = None,
) -> Walk:
    """Decode with ``strategy`` along ``trajectories`` and measure the KL of every reveal.

    ``batch_size``: trajectories at a time, or a BatchSize, which finds what fits into
    memory. ``reference`` saves the teacher passes of a recorded path; it must hold the
    same trajectories. A sampled path takes prompts, row ids and the strategy's
    seed, and ends rows at their end token. ``block_length``: as in ``generate``.

    Raises UserError: an unknown path, a temperature that is not positive, a
    verified method (its distribution is the teacher's own), trajectories of another
    teacher, an update that does not fit the teacher.
    """
    if path not in get_args(KLPath):
        raise UserError(f"path must be one of {', '.join(get_args(KLPath))}, not {path!r}.")
    if not temperature > 0:
        raise UserError(f"A KL needs a positive temperature, not {temperature}.")
    if strategy.verification is not None:
        raise UserError("A verified method samples from the teacher's own joint: its KL is 0.")
    trajectories.check_teacher(teacher)
    recorded = reference.states if path == "recorded" and reference is not None else None

    def walked(part: range) -> Walk:
        states = None if recorded is None else recorded[:, part.start : part.stop]
        rows = trajectories.select(part)
        return _walk(teacher, strategy, rows, path, temperature, states, block_length)

    return Walk.joined(in_batches(batch_size, len(trajectories), walked))


def _walk(
    teacher: Teacher,
    strategy: Strategy,
    rows: Trajectories,
    path: KLPath,
    temperature: float,
    recorded: Tensor | None,
    block_length: int | None,
) -> Walk:
    """:func:`walk` for one batch."""
    paths = Paths.of(rows, teacher)
    canvas = Canvas(teacher, rows.prompts, rows.row_ids, rows.length)
    script, responses = Script(), None
    if path != "sampled":
        responses = paths.ids[:, paths.start :]
        script = Script(paths.order if path == "recorded" else None, responses)
        canvas.masked &= paths.rank < rows.length  # positions behind the end stay masked
    meter = _Meter(teacher, canvas, temperature, recorded)
    decoder = Decoder(strategy.update.reading(teacher), strategy, canvas, script, before=meter)
    decoder.run(block_length, stop_at_end=path == "sampled" and bool(teacher.end_ids))
    if responses is None:
        responses = canvas.response(canvas.ids)
    ends = end_positions(responses, teacher.end_ids)
    return Walk(
        nats=meter.nats.cpu().numpy(),
        position=canvas.order.cpu().numpy(),
        round=canvas.round.cpu().numpy(),
        counted=((canvas.order >= 0) & (canvas.order <= ends[:, None])).cpu().numpy(),
        estimates=meter.estimates.cpu().numpy(),
        teacher_passes=canvas.teacher_passes.cpu().numpy(),
        update_passes=canvas.update_passes.cpu().numpy(),
    )


def fixed_rounds(update: Update, k: int, order: str, seed: int) -> Strategy:
    """The strategy of rounds of k reveals."""
    return Strategy(update, FixedK(k), get_order(order), Sampling(), seed)


def block_kl(
    teacher: Teacher,
    update: Update | JointSampler | None,
    trajectories: Trajectories | Generation,
    k: int = 4,
    *,
    path: KLPath = "recorded",
    temperature: float = 1.0,
    order: str = "entropy",
    batch_size: int | BatchSize = 128,
    reference: Reference | None = None,
) -> BlockKL:
    """The KL of rounds of k reveals, of the marginal model and of ``update``.

    Rounds begin at reveals 0, k, 2k, ... of each trajectory; a last partial one is
    left out. ``order`` is the trajectories' policy: a refresh and the paths other
    than "recorded" follow it. ``reference``, of the same trajectories, shares work
    between calls.

    Raises UserError: k < 2 or larger than the response, a temperature that is not
    positive, an update or a corpus of another teacher, trajectories that are not
    sequential.
    """
    if isinstance(trajectories, Generation):
        trajectories = Trajectories.from_generation(trajectories, 0, teacher)
    if not 2 <= k <= trajectories.length:
        raise UserError(
            f"Block KL needs k between 2 and the response length {trajectories.length}, not {k}."
        )
    chosen = as_update(update)
    chosen.reading(teacher)  # refuses an update that does not fit, before any pass
    reference = reference or Reference(teacher, trajectories, batch_size)
    marginal, own_walk = reference.marginal(k, path, temperature, order), None
    nats, counted = _full_rounds(marginal, k)
    own, own_counted = np.full(len(trajectories), np.nan), counted
    if not isinstance(chosen, NoUpdate):
        strategy = fixed_rounds(chosen, k, order, trajectories.seed)
        own_walk = reference.walk(strategy, path, temperature)
        own, own_counted = _full_rounds(own_walk, k)  # on a sampled path of other lengths
    columns = [nats, own, counted / k, own_counted / k]
    return replace(summarize(k, np.stack(columns, axis=1)), walks=(marginal, own_walk))


def _full_rounds(walk: Walk, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(nats [n], counted reveals [n]) of each trajectory's rounds with all k reveals."""
    made = walk.position >= 0
    full = np.arange(made.shape[1]) < (made.sum(1) // k * k)[:, None]
    counted = walk.counted & full
    return (walk.nats * counted).sum(1), counted.sum(1)


def calibration(guesses: np.ndarray, bins: int = 8) -> list[tuple[float, float, int]]:
    """(mean estimate, mean true KL, count) in equally filled bins of the estimate; guesses [m, 2]."""
    ordered = guesses[np.argsort(guesses[:, 0], kind="stable")]
    parts = np.array_split(ordered, min(bins, max(1, len(ordered))))
    return [(float(p[:, 0].mean()), float(p[:, 1].mean()), len(p)) for p in parts if len(p)]
