"""Teachers whose joint law is known exactly, so that meters and decoders can be checked in closed form.

``TableTeacher`` conditions an explicit joint table; its hidden states *are* its
log-conditionals and its embedding is one-hot, so an oracle sampler can exist.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import torch
from torch import Tensor

from jointsampler.sampler.estimator import KLEstimator
from jointsampler.sampler.model import at_columns
from jointsampler.teachers.protocol import LayerShape


class TableTeacher:
    """Joint law given as {tuple of symbols: probability} over sequences of one length.

    Ids: symbols 0..n-1, then mask = n, pad = n + 1, bos = n + 2.
    """

    def __init__(self, law: dict[tuple[int, ...], float], symbols: int):
        self.name, self.fingerprint = "table", f"table-{hash(frozenset(law.items())) & 0xFFFF:x}"
        self.family, self.generation_defaults, self.end_ids = "table", {}, ()
        self.law, self.symbols = law, symbols
        self.tokenizer = None
        self.mask_id, self.pad_id, self.bos_id, self.eos_id = (
            symbols,
            symbols + 1,
            symbols + 2,
            None,
        )
        self.vocab_size = self.hidden_size = symbols + 3
        self.linear_head = True
        self.forbidden_ids = torch.tensor([self.mask_id, self.pad_id, self.bos_id])
        self.max_length = 64
        self.layers, self.read_layers = 1, ()
        self.device = torch.device("cpu")
        self.words = torch.tensor(list(law))  # [N, L]
        self.weights = torch.tensor(list(law.values()), dtype=torch.float64)

    def hidden(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        length = self.words.shape[1]
        response = ids[:, -length:]
        fits = (response[:, None] == self.words) | (response[:, None] == self.mask_id)  # [B, N, L]
        weight = self.weights * fits.all(-1)  # [B, N]
        onehot = torch.nn.functional.one_hot(self.words, self.vocab_size).double()  # [N, L, V]
        mass = torch.einsum("bn,nlv->blv", weight, onehot)
        mass = mass / mass.sum(-1, keepdim=True).clamp_min(1e-300)
        log = mass.clamp_min(1e-30).log().float()
        prefix = torch.zeros(len(ids), ids.shape[1] - length, self.vocab_size)
        return torch.cat([prefix, log], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        out = hidden.float().clone()
        out[..., self.forbidden_ids] = -torch.inf
        return out

    def embed(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(ids, self.vocab_size).float()

    def layer_shape(self, width: int) -> LayerShape:
        return LayerShape(1, width, 2 * width, 10000.0, 1e-6)


class OracleSampler:
    """The sampler that asks the teacher: reads the ids off the one-hot embedding."""

    def __init__(self, teacher: TableTeacher):
        self.teacher = teacher
        self.config = SimpleNamespace(k_max=8, window=0)
        self.estimator = KLEstimator(teacher.hidden_size, 1e-6)

    def eval(self) -> OracleSampler:
        return self

    def reading(self, teacher: TableTeacher) -> TableTeacher:
        assert teacher is self.teacher
        return teacher

    def check_block(self, k: int) -> None:
        """Any block will do."""

    def __call__(
        self,
        embedding: Tensor,
        hidden: Tensor,
        mask: Tensor | None = None,
        window: None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        states = self.teacher.hidden(embedding.argmax(-1))
        return states if columns is None else at_columns(states, columns)


def shuffle_teacher(n: int) -> TableTeacher:
    """Uniform over the permutations of n items."""
    words = list(itertools.permutations(range(n)))
    return TableTeacher({word: 1 / len(words) for word in words}, n)


def shuffle_nats(n: int) -> float:
    """Total correlation of a uniform shuffle: n ln n - ln n!."""
    return n * math.log(n) - math.lgamma(n + 1)


def skewed_teacher(seed: int = 0, length: int = 4, symbols: int = 3) -> TableTeacher:
    """A random, strongly dependent law over symbols ** length words."""
    generator = torch.Generator().manual_seed(seed)
    words = list(itertools.product(range(symbols), repeat=length))
    weights = torch.rand(len(words), generator=generator, dtype=torch.float64) ** 4
    weights = (weights / weights.sum()).tolist()
    return TableTeacher(dict(zip(words, weights, strict=True)), symbols)
