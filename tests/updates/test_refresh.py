"""Refresh: the teacher's own layers at some columns between two reveals, for every family."""

from __future__ import annotations

import pytest
import torch

from jointsampler import Refresh, UserError, block_kl, generate
from jointsampler.decoding.methods import METHODS
from jointsampler.teachers.columns import check_rerun
from jointsampler.updates import Hybrid, Reveal, full_pass
from tests.support.analytic import skewed_teacher
from tests.support.families import NAMES, load_family

PROMPTS = ["the quick", "x", "def main the fox a"]
EVERY = 1000  # more columns than any canvas here has: all of them


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory, tiny):
    root, loaded = tmp_path_factory.mktemp("families"), {"stock": tiny}

    def load(name: str):
        if name not in loaded:
            loaded[name] = load_family(root, name)
        return loaded[name]

    return load


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", NAMES)
def test_with_all_columns_refresh_is_sequential_token_for_token(teacher_of, name, padded):
    teacher = teacher_of(name)
    check_rerun(teacher)
    settings = dict(prompts=PROMPTS if padded else PROMPTS[2:], max_new_tokens=8, seed=5)
    truth = generate(teacher, method="sequential", **settings)
    assert truth.attention_mask.all() == (not padded)
    for k in (4, 8):
        out = generate(teacher, Refresh(EVERY), method="refresh", k=k, **settings)
        assert torch.equal(out.sequences, truth.sequences)
        assert torch.equal(out.order, truth.order)
        assert out.teacher_passes.unique().tolist() == [8 // k]
        assert out.update_passes.unique().tolist() == [8 - 8 // k]


@pytest.mark.parametrize("name", ["stock", "dream", "mdlm", "bert"])
@pytest.mark.parametrize("method", ["refresh", "threshold", "lossless"])
def test_a_refresh_row_depends_on_neither_its_batch_nor_its_padding(teacher_of, name, method):
    teacher = teacher_of(name)
    settings = dict(method=method, k=4, max_new_tokens=10, seed=8)
    if method == "threshold":
        del settings["k"]
        settings["threshold"] = 0.05
    together = generate(teacher, Refresh(3), PROMPTS, **settings)
    assert not together.attention_mask.all()
    for row, prompt in enumerate(PROMPTS):
        alone = generate(teacher, Refresh(3), [prompt], row_ids=[row], **settings)
        assert torch.equal(alone.responses[0], together.responses[row])
        assert torch.equal(alone.order[0], together.order[row])
        assert alone.teacher_passes[0] == together.teacher_passes[row]


@pytest.mark.parametrize("name", ["paper", "hybrid", "refresh"])
@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.update != "none"])
def test_every_rule_and_verification_runs_with_every_update(
    tiny, trained_like, hybrid_like, method, name
):
    update = {"paper": trained_like, "hybrid": Hybrid(hybrid_like, 4), "refresh": Refresh(4)}[name]
    if method == "refresh" and name != "refresh":
        with pytest.raises(UserError, match="pass a Refresh"):
            generate(tiny, update, method=method)
        return
    out = generate(tiny, update, PROMPTS, method=method, k=3, max_new_tokens=9, seed=1)
    assert all(sorted(order) == list(range(9)) for order in out.order.tolist())
    assert not torch.isin(out.responses, tiny.forbidden_ids).any()
    assert (out.teacher_passes <= 9).all() or METHODS[method].verification


def test_refresh_needs_no_sampler_and_is_short_for_joint_with_a_refresh(tiny):
    settings = dict(k=4, num_samples=3, max_new_tokens=12)
    short = generate(tiny, method="refresh", **settings)
    long = generate(tiny, Refresh(), method="joint", **settings)
    assert torch.equal(short.sequences, long.sequences)
    assert torch.equal(short.order, long.order)


def test_one_token_per_round_needs_no_refresh(tiny):
    settings = dict(num_samples=2, max_new_tokens=6)
    out = generate(tiny, method="refresh", k=1, **settings)
    assert torch.equal(out.sequences, generate(tiny, method="sequential", **settings).sequences)
    assert out.update_passes.tolist() == [0, 0]


@pytest.mark.parametrize("name", ["stock", "dream"])
@torch.inference_mode()
def test_an_update_says_where_its_states_are_new_and_leaves_the_others_as_they_were(
    teacher_of, name
):
    teacher = teacher_of(name)
    ids = torch.full((2, 12), teacher.mask_id)
    real = torch.ones_like(ids, dtype=torch.bool)
    ids[0, :3], real[0, :3] = teacher.pad_id, False
    ids[:, 3:6] = 9
    opening = full_pass(teacher, ids, real, "keys")
    state = Refresh(4, "near").begin(teacher, opening, real)
    ids[:, 8] = 7
    masked = ids == teacher.mask_id
    scores = torch.arange(12.0).expand(2, -1)
    moved = state.advance(Reveal(ids, torch.tensor([8, 8]), masked, scores))
    assert torch.equal(opening.states, state.opening)
    changed = (state.states != state.opening).any(-1)
    for row in range(2):
        told = {position for position in moved[row].tolist() if position < 12}
        assert set(changed[row].nonzero()[:, 0].tolist()) <= told
        assert {7, 9} <= told  # the masked neighbours
    assert changed.sum() >= 6
    # With every column the states are those of a full pass over the new canvas.
    state = Refresh(EVERY).begin(teacher, full_pass(teacher, ids, real, "queries"), real)
    ids[:, 10] = 11
    state.advance(Reveal(ids, torch.tensor([10, 10]), ids == teacher.mask_id, scores))
    assert torch.allclose(state.states[real], teacher.hidden(ids, real)[real], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(columns=0), "at least 1 column, not 0"),
        (dict(policy="nera"), "did you mean 'near'"),
    ],
)
def test_a_refresh_without_columns_or_with_an_unknown_policy_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Refresh(**settings)


def test_a_teacher_that_cannot_rerun_columns_is_refused_before_any_work():
    class Recurrent(type(skewed_teacher())):
        def rerun(self, *args, **kwargs):
            return super().rerun(*args, **kwargs) + 1.0

    teacher = Recurrent({(0, 1): 0.5, (1, 0): 0.5}, 2)
    for use in (
        lambda: generate(teacher, method="refresh", k=2, max_new_tokens=2),
        lambda: generate(teacher, Refresh(), method="threshold", max_new_tokens=2),
        lambda: block_kl(teacher, Refresh(), generate(teacher, method="sequential", max_new_tokens=2), 2),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"cannot rerun a few columns.*differs from the full"):
            use()
