"""What holds for every row of the rivals' table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jointsampler import Refresh, generate
from jointsampler.corpus.trajectories import Trajectories
from jointsampler.decoding.generate import decode
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.evaluation.kl import walk
from tests.rivals.conftest import LENGTH, PROMPTS


def decoded(teacher, contender, rows, batch_size=64, prompts=PROMPTS):
    encoded = encode_prompts(teacher, prompts, LENGTH)
    return decode(
        teacher, contender.strategy, [encoded[i] for i in rows], torch.tensor(rows), LENGTH,
        batch_size, method=contender.name, block_length=contender.block_length, stop_at_end=True,
    )  # fmt: skip


def named(every, name):
    return [row for row in every if row.name == name]


OURS = ("sequential", "marginal", "refresh", "joint", "threshold", "factor", "entropy_bound")


@pytest.fixture(scope="session")
def rivals(every):
    """The last row of each method that only this folder has: with several tokens a step, if any."""
    return list({row.name: row for row in every if row.name not in OURS}.values())


def test_a_sample_does_not_depend_on_its_batch(tiny, rivals):
    assert len(rivals) == 6
    for contender in rivals:
        together = decoded(tiny, contender, [0, 1, 2])
        for row in range(3):
            alone = decoded(tiny, contender, [row])
            assert torch.equal(alone.responses[0], together.responses[row]), contender
            assert alone.teacher_passes[0] == together.teacher_passes[row], contender
            assert alone.update_passes[0] == together.update_passes[row], contender


def test_our_own_rows_are_those_of_generate(tiny, every):
    call = dict(max_new_tokens=LENGTH, seed=3, stop_at_end=True, prompts=PROMPTS)
    for name in ("sequential", "marginal", "refresh", "threshold", "factor", "entropy_bound"):
        for contender in named(every, name):
            knobs = dict(contender.setting)
            update = Refresh(knobs.pop("columns")) if "columns" in knobs else None
            same = generate(tiny, update, method=name, **call, **knobs)
            out = decoded(tiny, contender, [0, 1, 2])
            assert torch.equal(out.responses, same.responses)
            assert torch.equal(out.teacher_passes, same.teacher_passes)


def test_the_caches_open_as_many_full_passes_as_their_papers_say(tiny, every):
    for contender in [*named(every, "prefix cache"), *named(every, "dual cache")]:
        out = decoded(tiny, contender, [0, 1, 2])
        assert (out.teacher_passes <= 2).all()  # one a block of 8
        full = (out.order >= 0).sum(1) == LENGTH
        if (tokens := contender.setting.get("tokens")) is not None:
            assert (out.update_passes[full] == 2 * (8 // tokens - 1)).all()
        else:  # by confidence: at least one a pass, and more where the teacher is sure
            assert (out.update_passes[full] < 2 * 7).all()
    for contender in named(every, "d2Cache"):
        assert (decoded(tiny, contender, [0, 1, 2]).teacher_passes == 1).all()


def test_blocks_are_finished_from_the_left(tiny, every):
    for contender in named(every, "dual cache"):
        order = decoded(tiny, contender, [0, 1, 2]).order
        assert (order[:, :8] < 8).all() and ((order[:, 8:] >= 8) | (order[:, 8:] < 0)).all()


def test_the_kl_is_taken_at_the_states_of_the_samples(tiny, rivals):
    encoded = encode_prompts(tiny, PROMPTS, LENGTH)
    blank = torch.full((3, LENGTH), -1)
    rows = Trajectories(torch.arange(3), encoded, blank, blank, 3, tiny.fingerprint)
    for contender in rivals:
        found = walk(
            tiny, contender.strategy, rows, path="sampled", block_length=contender.block_length
        )
        assert np.isfinite(found.nats).all() and found.nats_per_token().value >= -1e-6
        out = decoded(tiny, contender, [0, 1, 2])
        assert np.array_equal(found.position, out.order.numpy()), contender
        assert np.array_equal(found.teacher_passes, out.teacher_passes.numpy()), contender


@pytest.mark.parametrize("name", ["Elastic-Cache", "circuit", "independent", "prefix cache"])
def test_a_rivals_round_leaves_the_states_of_the_full_pass_alone(tiny, every, name):
    """``marginal`` after the rival, in one process, draws what it drew before."""
    marginal = named(every, "marginal")[0]
    before = decoded(tiny, marginal, [0, 1, 2])
    decoded(tiny, named(every, name)[0], [0, 1, 2])
    assert torch.equal(decoded(tiny, marginal, [0, 1, 2]).responses, before.responses)
