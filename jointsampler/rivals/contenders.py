"""The rows of the rivals' table: our methods and the published ones, at knobs that span speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..columns import Block, DensityAndRollout
from ..decoding.orders import Entropy, OrderPolicy
from ..decoding.sampling import Sampling
from ..decoding.stops import Adaptive, EntropyBound, Factor, FixedK, StopRule, Threshold
from ..decoding.strategy import Strategy
from ..errors import UserError
from ..evaluation.paired import Contender
from ..teachers.protocol import Teacher
from ..updates import NoUpdate, Refresh, Update
from .circuit import Circuit, train_circuit
from .copula import Copula
from .dependency import DependencyHead, train_head
from .elastic import Elastic
from .independent import Independent
from .states import masked_states
from .suffix import Suffix
from .within import Within

LEARNED = ("circuit", "independent")  # the rows that need a training
BLOCK = 8  # positions of a block of the prefix and dual cache, and of Elastic-Cache's window
# From this confidence on a pass of a cache reveals more than one token, as in the papers.
CONFIDENCE = 0.9
STEP_BOUND = 0.003  # nats; of our own steps


@dataclass(frozen=True)
class Trained:
    """The models that two of the rivals need, with the loss of each training step."""

    circuit: Circuit
    head: DependencyHead
    circuit_losses: list[float]
    head_losses: list[float]


def train(teacher: Teacher, length: int, states: int = 1536, seed: int = 1) -> Trained:
    """On task prompts of ``seed`` with responses of ``length``: some minutes on one thread."""
    made = masked_states(teacher, states, length, seed)
    circuit, circuit_losses = train_circuit(teacher, made, seed=seed)
    head, head_losses = train_head(teacher, made, seed=seed)
    return Trained(circuit, head, circuit_losses, head_losses)


def contenders(
    length: int, seed: int, updates: Mapping[str, Update], trained: Trained | None = None
) -> list[Contender]:
    """``sequential`` first. ``updates``: "refresh", and "joint" where there is a sampler.

    Without ``trained`` or "joint" the rows that need them are left out.

    Raises UserError where blocks do not divide the response's ``length``.
    """
    if length % BLOCK:
        raise UserError(
            f"The rivals decode in blocks of {BLOCK}: --max-new-tokens must be a multiple of it, "
            f"not {length}."
        )
    made = _Rows(length, seed)
    made.ours(updates)
    made.rules()
    made.caches()
    if trained is not None:
        made.learned(trained)
    return made.rows


class _Rows:
    def __init__(self, length: int, seed: int):
        self.length, self.seed = length, seed
        self.rows: list[Contender] = []

    def add(
        self,
        name: str,
        setting: dict[str, int | float],
        rule: StopRule,
        update: Update | None = None,
        order: OrderPolicy | None = None,
        block: int | None = None,
        step: StopRule | None = None,
    ) -> None:
        strategy = Strategy(
            update or NoUpdate(), rule, order or Entropy(), Sampling(), self.seed, step=step
        )
        self.rows.append(Contender(name, setting, strategy, block_length=block))

    def ours(self, updates: Mapping[str, Update]) -> None:
        self.add("sequential", {}, FixedK(1))
        for k in (4, 8):
            self.add("marginal", {"k": k}, FixedK(k))
        refresh = updates["refresh"]
        for k in (4, 8):
            self.add("refresh", {"k": k, "columns": refresh.columns}, FixedK(k), refresh)
        # One full pass opens the response, and an update follows a step.
        whole, step = FixedK(self.length), EntropyBound(self.length, STEP_BOUND)
        setting = {"k": self.length, "step_bound": STEP_BOUND}
        for columns in (refresh.columns, 2 * refresh.columns):
            update = Refresh(columns, refresh.policy)
            self.add("refresh", setting | {"columns": columns}, whole, update, step=step)
        if "joint" in updates:
            for k in (4, 8):
                self.add("joint", {"k": k}, FixedK(k), updates["joint"])
            self.add(
                "joint", {"k": 8, "step_bound": STEP_BOUND}, FixedK(8), updates["joint"], step=step
            )

    def rules(self) -> None:
        """Fast-dLLM (arXiv 2505.22618) and the EB-Sampler (2505.24857), on the full pass alone."""
        for value in (0.9, 0.5):
            self.add("threshold", {"threshold": value}, Threshold(self.length, value))
        for value in (0.5, 2.0):
            self.add("factor", {"factor": value}, Factor(self.length, value))
        for value in (0.1, 1.0):
            self.add("entropy_bound", {"bound": value}, EntropyBound(self.length, value))

    def caches(self) -> None:
        """Fast-dLLM's two caches, d2Cache (2509.23094) and Elastic-Cache (2510.14973)."""
        whole = FixedK(self.length)
        # The reveals of a pass: within a block or window, which is all that it recomputes.
        steps: tuple[tuple[str, float, StopRule | None], ...] = (
            ("tokens", 1, None),
            ("tokens", 2, FixedK(2)),
            ("threshold", CONFIDENCE, Threshold(BLOCK, CONFIDENCE)),
        )
        for name, policy in (("prefix cache", Suffix(BLOCK)), ("dual cache", Block())):
            # One full pass opens each block.
            update = Refresh(BLOCK, policy)
            for key, value, step in steps:
                setting = {"block": BLOCK, key: value}
                self.add(name, setting, FixedK(BLOCK), update, block=BLOCK, step=step)
        for columns in (8, 16):
            # One full pass opens the response.
            self.add("d2Cache", {"columns": columns}, whole, Refresh(columns, DensityAndRollout()))
        order = Within(Entropy(), 0.5)
        for gamma, (key, value, step) in zip((0.98, 0.9, 0.9), steps, strict=True):
            setting = {"window": BLOCK, "gamma": gamma, key: value}
            rule = Adaptive(self.length, 1 - gamma)
            self.add("Elastic-Cache", setting, rule, Elastic(BLOCK), order, step=step)

    def learned(self, trained: Trained) -> None:
        """The ideas of CoDD (2603.00045) and DEMASK (2604.02560)."""
        for k in (4, 8):
            self.add("circuit", {"k": k}, FixedK(k), Copula(trained.circuit))
        for bound in (0.02, 0.2):
            update, order = Independent(trained.head), Within(Entropy(), bound)
            rule = Adaptive(self.length, bound)
            self.add("independent", {"bound": bound}, rule, update, order)
