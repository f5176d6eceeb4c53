"""Each part of the library is replaced by one file of its own and one registration.

Every test writes such a file as a user would, registers it and samples with it.
"""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest
import torch

from jointsampler import Refresh, Trajectories, block_kl, generate, load_teacher
from jointsampler.decoding.methods import METHODS, Method
from jointsampler.decoding.orders import ORDERS
from jointsampler.teachers.families import FAMILIES
from jointsampler.updates import as_update

SETTINGS = dict(num_samples=2, max_new_tokens=6, seed=3)


@pytest.fixture
def module(tmp_path):
    """Import the text of a file."""

    def write(text: str) -> ModuleType:
        path = tmp_path / "plug_in.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("plug_in", path)
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    return write


def test_an_order_policy(tiny, module, monkeypatch):
    made = module('''
class RightToLeft:
    """From right to left."""

    name = "right_to_left"
    needs_logits = False

    def score(self, view):
        return -view.positions.double()
''')
    monkeypatch.setitem(ORDERS, "right_to_left", made.RightToLeft())
    for method in ("sequential", "refresh", "lossless", "threshold"):
        out = generate(tiny, method=method, k=3, order="right_to_left", **SETTINGS)
        assert out.order.tolist() == [[5, 4, 3, 2, 1, 0]] * 2


def test_a_stop_rule(tiny, trained_like, module, monkeypatch):
    made = module('''
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Growing:
    """Rounds of at most ``most`` reveals, whatever the logits."""

    limit: int
    most: int = 2
    asks, estimates = True, False

    def begin(self, first):
        return torch.ones(len(first.logits), dtype=torch.long)

    def goes_on(self, memory, candidate):
        return memory < self.most, memory + 1
''')
    monkeypatch.setitem(METHODS, "growing", Method("growing", made.Growing))
    for update in (None, trained_like, Refresh(3)):
        out = generate(tiny, update, method="growing", most=4, **SETTINGS)
        assert out.round.tolist() == [[0, 0, 0, 0, 1, 1]] * 2
    fixed = generate(tiny, trained_like, method="joint", k=4, **SETTINGS)
    same = generate(tiny, trained_like, method="growing", most=4, **SETTINGS)
    assert torch.equal(fixed.sequences, same.sequences)


def test_an_update(tiny, module):
    made = module('''
class Fresh:
    """A full pass after every reveal."""

    name = "fresh"
    passes = True
    ranks = estimates = False
    keeps = "nothing"
    k_max = None

    def reading(self, teacher):
        return teacher

    def begin(self, teacher, opening, attention_mask):
        return FreshRound(teacher, opening.states, attention_mask)


class FreshRound:
    def __init__(self, teacher, states, mask):
        self.teacher, self.mask, self.opening, self.states = teacher, mask, states, states

    def advance(self, reveal):
        self.states = self.teacher.hidden(reveal.ids, self.mask)

    def estimate(self, seen):
        raise AssertionError("estimates is False")
''')
    fresh = made.Fresh()
    assert as_update(fresh) is fresh
    truth = generate(tiny, method="sequential", **SETTINGS)
    out = generate(tiny, fresh, method="joint", k=6, **SETTINGS)
    assert torch.equal(out.sequences, truth.sequences) and torch.equal(out.order, truth.order)
    assert out.teacher_passes.tolist() == [1, 1] and out.update_passes.tolist() == [5, 5]
    for method in ("lossless", "entropy_bound"):
        generate(tiny, fresh, method=method, k=3, **SETTINGS)
    rows = Trajectories.from_generation(truth, 3, tiny)
    assert block_kl(tiny, fresh, rows, k=3).captured.value == pytest.approx(1, abs=1e-4)


def test_a_column_policy(tiny, module):
    made = module('''
import torch


class Leftmost:
    """The revealed column and the first others."""

    name, keeps = "leftmost", "keys"

    def choose(self, count, seen):
        columns = torch.arange(seen.masked.shape[1]).expand_as(seen.masked)
        return seen.first(columns.double(), count)
''')
    # All columns of a bos and six tokens.
    truth = generate(tiny, method="sequential", **SETTINGS)
    out = generate(tiny, Refresh(7, made.Leftmost()), method="refresh", k=6, **SETTINGS)
    assert torch.equal(out.sequences, truth.sequences)
    # The revealed column alone changes no other state.
    marginal = generate(tiny, method="marginal", k=6, **SETTINGS)
    out = generate(tiny, Refresh(1, made.Leftmost()), method="refresh", k=6, **SETTINGS)
    assert torch.equal(out.sequences, marginal.sequences)


def test_a_teacher_family(tmp_path, module, monkeypatch):
    made = module('''
import itertools

from tests.support.analytic import TableTeacher

NAME = "chain"


def matches(config):
    return config.get("model_type") == "chain"


def load(checkpoint, options):
    """Words of two symbols; each pair of equal neighbours makes a word likelier by a factor."""
    length, factor = checkpoint.require("length"), checkpoint.require("factor")
    words = itertools.product((0, 1), repeat=length)
    weights = {w: factor ** sum(a == b for a, b in zip(w, w[1:])) for w in words}
    total = sum(weights.values())
    return TableTeacher({word: weight / total for word, weight in weights.items()}, 2)
''')
    monkeypatch.setitem(FAMILIES, made.NAME, made)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = {"model_type": "chain", "length": 8, "factor": 4.0}
    (folder / "config.json").write_text(json.dumps(config))
    teacher = load_teacher(str(folder), device="cpu")
    assert teacher.family == "table" and len(teacher.joint) == 2**8
    settings = dict(num_samples=20, max_new_tokens=8)
    truth = generate(teacher, method="sequential", **settings)
    out = generate(teacher, Refresh(9), method="refresh", k=4, **settings)
    assert torch.equal(out.sequences, truth.sequences)
    for method in ("lossless_tokens", "lossless"):  # an exact draft is always kept
        out = generate(teacher, Refresh(9), method=method, k=4, **settings)
        assert out.round_ends.sum(0).tolist() == [40, 0, 0]
    assert block_kl(teacher, Refresh(9), truth, k=4).captured.value == pytest.approx(1, abs=1e-4)
