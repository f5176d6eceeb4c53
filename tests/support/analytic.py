"""Teachers whose joint distribution is known exactly, so meters and decoders can be checked in closed form.

``TableTeacher`` conditions an explicit joint table. Its hidden states *are* its
log-conditionals and its embedding is one-hot, so an update without error exists.
Chi-square tests against such tables are in ``distributions.py``.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import torch
from torch import Tensor

from jointsampler.sampler import at_columns
from jointsampler.sampler.estimator import Foresight, KLEstimator
from jointsampler.teachers.columns import KeyValues
from jointsampler.teachers.protocol import LayerShape
from jointsampler.updates import Opening, Reveal


class TableTeacher:
    """A joint given as {tuple of symbols: probability} over sequences of one length L.

    Ids: symbols 0..n-1, then mask = n, pad = n + 1, bos = n + 2.
    """

    name = family = "table"
    tokenizer = eos_id = None
    end_ids: tuple[int, ...] = ()
    shift, layers, read_layers, max_length = 0, 1, (), 64
    generation_defaults: dict[str, float | str] = {}  # noqa: RUF012
    device = torch.device("cpu")

    def __init__(self, joint: dict[tuple[int, ...], float], symbols: int):
        self.fingerprint = f"table-{hash(frozenset(joint.items())) & 0xFFFF:x}"
        self.joint, self.symbols = joint, symbols
        self.mask_id, self.pad_id, self.bos_id = symbols, symbols + 1, symbols + 2
        self.vocab_size = self.hidden_size = symbols + 3
        self.forbidden_ids = torch.tensor([self.mask_id, self.pad_id, self.bos_id])
        self.words = torch.tensor(list(joint))  # [N, L]
        self.weights = torch.tensor(list(joint.values()), dtype=torch.float64)
        self.rows = 0  # sequences that it has been given

    @property
    def length(self) -> int:
        return self.words.shape[1]

    def hidden(
        self, ids: Tensor, attention_mask: Tensor | None = None, stored: KeyValues | None = None
    ) -> Tensor:
        self.rows += len(ids)
        if stored is not None:  # nothing to keep, but a full pass fills what it is given
            stored.clear()
            for kept in (stored.keys, stored.values):
                kept.append(torch.zeros(len(ids), 1, ids.shape[1], 1))
            stored.masks.append(None)
            if stored.queried:  # every query attends to all keys alike
                stored.keep_query(stored.keys[0], stored.keys[0], None, 1.0)
        log = self.conditionals(ids[:, -self.length :])
        prefix = torch.zeros(len(ids), ids.shape[1] - self.length, self.vocab_size)
        return torch.cat([prefix, log], dim=1)

    def conditionals(self, response: Tensor) -> Tensor:
        """[B, L] with masks -> [B, L, V] float32 log-probabilities of each position."""
        fits = (response[:, None] == self.words) | (response[:, None] == self.mask_id)  # [B, N, L]
        weight = self.weights * fits.all(-1)  # [B, N]
        onehot = torch.nn.functional.one_hot(self.words, self.vocab_size).double()  # [N, L, V]
        mass = torch.einsum("bn,nlv->blv", weight, onehot)
        mass = mass / mass.sum(-1, keepdim=True).clamp_min(1e-300)
        return mass.clamp_min(1e-30).log().float()

    def rerun(
        self,
        ids: Tensor,
        columns: Tensor,
        attention_mask: Tensor | None,
        stored: KeyValues,
        depth: int | None = None,
    ) -> Tensor:
        """The exact states at ``columns``; the table reads no keys and has one layer."""
        return at_columns(self.hidden(ids, attention_mask), columns)

    def finish(self, outputs: Tensor) -> Tensor:
        return outputs

    def reading(self, layers: tuple[int, ...]) -> TableTeacher:
        assert not layers
        return self

    def logits(self, states: Tensor) -> Tensor:
        out = states.float().clone()
        out[..., self.forbidden_ids] = -torch.inf
        return out

    def embed(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(ids, self.vocab_size).float()

    def layer_shape(self, width: int) -> LayerShape:
        return LayerShape(1, width, 2 * width, 10000.0, 1e-6)


class InconsistentTeacher(TableTeacher):
    """Conditionals that agree on no joint, as those of a trained network: the order matters.

    Each canvas has its own fixed noise on the log-conditionals of the table.
    """

    def __init__(self, joint: dict[tuple[int, ...], float], symbols: int, noise: float = 0.7):
        super().__init__(joint, symbols)
        self.fingerprint += "-inconsistent"
        self._powers = (symbols + 1) ** torch.arange(self.length)
        shape = ((symbols + 1) ** self.length, self.length, self.vocab_size)
        self._noise = noise * torch.randn(shape, generator=torch.Generator().manual_seed(11))

    def conditionals(self, response: Tensor) -> Tensor:
        canvas = (response.clamp_max(self.mask_id) * self._powers).sum(1)
        return super().conditionals(response) + self._noise[canvas]


class OracleUpdate:
    """The update without error: one full pass of the teacher after each reveal.

    ``noise``: standard deviation of a fixed perturbation of its states, for drafts
    that are often wrong.
    """

    name = "oracle"
    passes = estimates = True
    ranks, keeps = False, "nothing"

    def __init__(self, teacher: TableTeacher, noise: float = 0.0, k_max: int | None = 8):
        self.teacher, self.noise, self.k_max = teacher, noise, k_max
        self.estimator = KLEstimator(teacher.hidden_size, 1e-6)

    def reading(self, teacher: TableTeacher) -> TableTeacher:
        assert teacher is self.teacher
        return teacher

    def begin(
        self, teacher: TableTeacher, opening: Opening, attention_mask: Tensor | None
    ) -> OracleRound:
        return OracleRound(self, opening.states)


class OracleRound:
    def __init__(self, update: OracleUpdate, opening: Tensor):
        self._update, self.opening, self.states = update, opening, opening

    def advance(self, reveal: Reveal) -> None:
        states = self._update.teacher.hidden(reveal.ids)
        draw = torch.Generator().manual_seed(7)
        self.states = states + self._update.noise * torch.randn(states.shape[1:], generator=draw)

    def estimate(self, seen: Foresight) -> Tensor:
        return self._update.estimator(seen)


class OracleSampler:
    """A stand-in for a trained sampler in a training step: the ids are read off the one-hot embedding."""

    def __init__(self, teacher: TableTeacher):
        self.teacher, self.config = teacher, SimpleNamespace(k_max=8, depth=0)
        self.estimator = KLEstimator(teacher.hidden_size, 1e-6)

    def __call__(
        self,
        embedding: Tensor,
        states: Tensor,
        attention_mask: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        exact = self.teacher.hidden(embedding.argmax(-1))
        return exact if columns is None else at_columns(exact, columns)


def shuffle_teacher(n: int) -> TableTeacher:
    """Uniform over the permutations of n items."""
    words = list(itertools.permutations(range(n)))
    return TableTeacher({word: 1 / len(words) for word in words}, n)


def shuffle_nats(n: int) -> float:
    """Total correlation of a uniform shuffle: n ln n - ln n!."""
    return n * math.log(n) - math.lgamma(n + 1)


def skewed_joint(seed: int, length: int, symbols: int) -> dict[tuple[int, ...], float]:
    """A random, strongly dependent joint over symbols ** length words."""
    generator = torch.Generator().manual_seed(seed)
    words = list(itertools.product(range(symbols), repeat=length))
    weights = torch.rand(len(words), generator=generator, dtype=torch.float64) ** 4
    weights = (weights / weights.sum()).tolist()
    return dict(zip(words, weights, strict=True))


def skewed_teacher(seed: int = 0, length: int = 4, symbols: int = 3) -> TableTeacher:
    return TableTeacher(skewed_joint(seed, length, symbols), symbols)


def inconsistent_teacher(seed: int = 0, length: int = 4, symbols: int = 3) -> InconsistentTeacher:
    return InconsistentTeacher(skewed_joint(seed, length, symbols), symbols)
