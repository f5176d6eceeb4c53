"""The hybrid update: the teacher's lower layers at some columns, then one trained layer."""

from __future__ import annotations

import threading

import pytest
import torch

from jointsampler import JointSampler, Trajectories, UserError, block_kl, generate
from jointsampler.decoding.methods import METHODS
from jointsampler.distill import DistillSettings, TeacherStates
from jointsampler.distill.step import _jump
from jointsampler.sampler import at_columns
from jointsampler.updates import (
    Hybrid,
    Refresh,
    Reveal,
    Trained,
    as_update,
    full_pass,
    joint_update,
)
from jointsampler.updates.at_columns import served
from jointsampler.updates.hybrid import carried
from tests.support.families import load_family
from tests.support.samplers import busy_sampler

PROMPTS = ["the quick", "x", "def main the fox a"]
EVERY = 1000  # more columns than any canvas here has: all of them
NAMES = ["stock", "dream", "mdlm"]  # Dream is shifted by one and groups its keys
PADDED = pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory, tiny):
    """(teacher, a sampler of depth 1 or more) of each family, loaded once."""
    root, made = tmp_path_factory.mktemp("hybrids"), {}

    def load(name: str):
        if name not in made:
            teacher = tiny if name == "stock" else load_family(root, name)
            made[name] = teacher, busy_sampler(teacher, depth=(teacher.layers - 1) // 2 or 1)
        return made[name]

    return load


def canvas(teacher, padded: bool, seed: int = 0):
    """ids [3, 14] with masks at 8 to 12, and a padding mask, or None."""
    ids = torch.randint(0, 40, (3, 14), generator=torch.Generator().manual_seed(seed))
    ids[:, 8:13] = teacher.mask_id
    if not padded:
        return ids, None
    real = torch.arange(14) >= torch.tensor([[4], [0], [7]])
    return ids.masked_fill(~real, teacher.pad_id), real


def begin(update: Hybrid, teacher, ids, real):
    reading = update.reading(teacher)
    return update.begin(reading, full_pass(reading, ids, real, update.keeps), real)


def reveal(teacher, ids, position: int, token: int) -> tuple[torch.Tensor, Reveal]:
    """The canvas with ``token`` at ``position`` of every row, and what a round is told of it."""
    ids = ids.clone()
    ids[:, position] = token
    masked = ids == teacher.mask_id
    scores = torch.arange(ids.shape[1]).float().expand_as(ids).masked_fill(~masked, torch.inf)
    return ids, Reveal(ids, torch.full((len(ids),), position), masked, scores)


def expected(teacher, sampler, before, now, real):
    """The states at canvas ``now`` of a round opened at ``before``, from two full passes."""
    reading = sampler.reading(teacher)
    _, low_before, top = reading.hidden(before, real).split(teacher.hidden_size, dim=-1)
    low = reading.hidden(now, real).split(teacher.hidden_size, dim=-1)[1]
    carry = top + low - low_before
    return sampler(low, teacher.finish(carry), real, before=low_before)


@PADDED
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_with_all_columns_the_states_are_those_of_two_full_passes(pair_of, name, padded):
    """At every reveal of the round, because no state depends on those before it."""
    teacher, sampler = pair_of(name)
    ids, real = canvas(teacher, padded)
    state = begin(Hybrid(sampler, EVERY), teacher, ids, real)
    assert torch.equal(state.states, teacher.hidden(ids, real))  # before any reveal
    shown = torch.ones_like(ids, dtype=torch.bool) if real is None else real
    now = ids
    for position, token in ((9, 5), (12, 17), (8, 23)):
        now, told = reveal(teacher, now, position, token)
        state.advance(told)
        want = expected(teacher, sampler, ids, now, real)
        assert torch.allclose(state.states[shown], want[shown], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(
            state.states[shown], state.opening[..., : want.shape[-1]][shown], atol=1e-2
        )


@PADDED
@pytest.mark.parametrize("name", NAMES)
def test_the_training_step_sees_the_states_that_decoding_with_all_columns_computes(
    pair_of, name, padded
):
    teacher, sampler = pair_of(name)
    out = generate(
        teacher, None, PROMPTS if padded else PROMPTS[2:], method="sequential",
        max_new_tokens=8, seed=3,
    )  # fmt: skip
    rows = Trajectories.from_generation(out, 3, teacher)
    starts = torch.tensor([0, 2, 4][: len(rows)])
    advances = torch.tensor([[3, 1, 2]])[:, : len(rows)]
    settings = DistillSettings(near=2, far=8)
    states = TeacherStates(sampler.reading(teacher), rows)
    targets = states.targets(torch.arange(len(rows)), starts, advances, settings, 0)
    with torch.no_grad():
        (here,) = _jump(states, sampler, targets)
    paths, update = targets.paths, Hybrid(sampler, EVERY)
    assert (paths.attention_mask is not None) == padded
    for row, (start, count) in enumerate(zip(starts.tolist(), advances[0].tolist(), strict=True)):
        one = paths.select(torch.tensor([row]))
        with torch.inference_mode():
            opening = one.state(torch.tensor([start]))
            state = begin(update, teacher, opening, one.attention_mask)
            for made in range(start + 1, start + count + 1):
                ids = one.state(torch.tensor([made]))
                position = one.start + one.order[:, made - 1]
                masked = ids == teacher.mask_id
                state.advance(Reveal(ids, position, masked, torch.zeros(ids.shape)))
            columns = one.start + targets.where[0].positions[row][None]
            decoded = at_columns(state.states, columns)[0]
        live = targets.where[0].weight[row] > 0
        assert live.sum() >= 2
        assert torch.allclose(decoded[live], here[row][live], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_an_update_says_where_its_states_are_new_and_leaves_the_others_as_they_were(pair_of, name):
    teacher, sampler = pair_of(name)
    ids, real = canvas(teacher, True)
    state = begin(Hybrid(sampler, 3), teacher, ids, real)
    now = ids
    for position in (9, 11):
        before = state.states.clone()
        now, told = reveal(teacher, now, position, 5)
        moved = state.advance(told)
        changed = (state.states != before).any(-1)
        for row in range(3):
            said = {place for place in moved[row].tolist() if place < 14}
            assert set(changed[row].nonzero()[:, 0].tolist()) <= said
        assert 3 <= changed.sum() <= 3 * (3 + bool(teacher.shift))


def test_no_position_is_served_twice(pair_of):
    """Where all columns are recomputed, a pad's output must not compete for a row's first position."""
    teacher, _ = pair_of("dream")
    _, real = canvas(teacher, True)
    columns = torch.arange(14).expand(3, -1)
    outputs = torch.zeros(3, 14, teacher.hidden_size)
    for mask in (None, real):
        positions, _ = served(teacher, columns, outputs, mask, 14)
        shown = torch.ones_like(real) if mask is None else mask
        for row in range(3):
            found = [place for place in positions[row].tolist() if place < 14]
            assert sorted(found) == shown[row].nonzero()[:, 0].tolist()


def test_an_untrained_hybrid_is_the_carry_behind_the_final_norm(tiny):
    sampler = JointSampler.for_teacher(tiny, 64, depth=3).eval()
    ids, _ = canvas(tiny, False)
    state = begin(Hybrid(sampler, EVERY), tiny, ids, None)
    now, told = reveal(tiny, ids, 9, 5)
    reading = sampler.reading(tiny)
    with torch.inference_mode():
        state.advance(told)
        _, low_before, top = reading.hidden(ids).split(tiny.hidden_size, dim=-1)
        low = reading.hidden(now).split(tiny.hidden_size, dim=-1)[1]
        assert torch.allclose(state.states, carried(tiny, low, low_before, top), atol=1e-4)


@pytest.mark.parametrize("columns", [3, EVERY])
@pytest.mark.parametrize("policy", ["attention", "near"])
@pytest.mark.parametrize("method", ["joint", "threshold", "lossless"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_on_neither_its_batch_nor_its_padding(pair_of, name, method, policy, columns):
    teacher, sampler = pair_of(name)
    update = Hybrid(sampler, columns, policy)
    settings = dict(method=method, max_new_tokens=10, seed=9)
    settings |= {"threshold": 0.05} if method == "threshold" else {"k": 4}
    together = generate(teacher, update, PROMPTS, **settings)
    assert not together.attention_mask.all()
    for row, prompt in enumerate(PROMPTS):
        alone = generate(teacher, update, [prompt], row_ids=[row], **settings)
        assert torch.equal(alone.responses[0], together.responses[row])
        assert torch.equal(alone.order[0], together.order[row])
        assert alone.teacher_passes[0] == together.teacher_passes[row]


@pytest.mark.parametrize("name", NAMES)
def test_two_rounds_of_one_process_do_not_disturb_each_other(pair_of, name):
    """In turn and in two threads, each computes what it computes alone."""
    teacher, sampler = pair_of(name)
    update = Hybrid(sampler, 4)

    def start(seed):
        ids, real = canvas(teacher, True, seed)
        return ids, begin(update, teacher, ids, real)

    def advance(ids, state, position):
        ids, told = reveal(teacher, ids, position, position)
        state.advance(told)
        return ids

    def whole(seed):
        with torch.inference_mode():
            ids, state = start(seed)
            for position in (9, 12):
                ids = advance(ids, state, position)
            return state.states.clone()

    alone = {seed: whole(seed) for seed in (1, 2)}
    assert not torch.equal(alone[1], alone[2])
    with torch.inference_mode():
        (a, first), (b, second) = start(1), start(2)
        for position in (9, 12):
            a, b = advance(a, first, position), advance(b, second, position)
    assert torch.equal(first.states, alone[1]) and torch.equal(second.states, alone[2])
    found: dict[int, list[torch.Tensor]] = {1: [], 2: []}

    def work(seed):
        found[seed] = [whole(seed) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        assert len(found[seed]) == 5
        assert all(torch.equal(states, alone[seed]) for states in found[seed])


@pytest.mark.parametrize("policy", ["attention", "near"])
@pytest.mark.parametrize("name", ["dream", "mdlm"])
@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.update != "none"])
def test_every_rule_and_verification_runs_with_it(pair_of, method, name, policy):
    if method == "refresh":
        return  # it means a Refresh, and refuses others
    teacher, sampler = pair_of(name)
    update = Hybrid(sampler, 3, policy)
    out = generate(teacher, update, PROMPTS, method=method, k=3, max_new_tokens=9, seed=1)
    assert all(sorted(order) == list(range(9)) for order in out.order.tolist())
    assert not torch.isin(out.responses, teacher.forbidden_ids).any()
    assert (out.teacher_passes <= 9).all() or METHODS[method].verification


def test_a_strict_verification_makes_it_exact(pair_of):
    teacher, sampler = pair_of("stock")
    settings = dict(prompts=PROMPTS, max_new_tokens=10, seed=4, temperature=0.0)
    out = generate(teacher, Hybrid(sampler, 4), method="lossless", k=4, **settings)
    truth = generate(teacher, method="sequential", **settings)
    assert torch.equal(out.sequences, truth.sequences) and torch.equal(out.order, truth.order)


def test_more_columns_capture_more_of_the_dependency(tiny, samples, shipped):
    def captured(columns: int) -> float:
        return block_kl(tiny, Hybrid(shipped, columns), samples, k=4).captured.value

    one, eight = captured(1), captured(8)
    assert one == pytest.approx(0, abs=1e-6)  # the revealed column alone changes no other state
    assert eight > 0.5


def test_a_sampler_becomes_the_update_of_its_depth(trained_like, hybrid_like):
    assert isinstance(as_update(trained_like), Trained)
    made = as_update(hybrid_like)
    assert isinstance(made, Hybrid) and (made.columns, made.policy.name) == (8, "attention")
    made = joint_update(hybrid_like, 4, "near")
    assert (made.columns, made.policy.name, made.keeps) == (4, "near", "keys")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(columns=0), "at least 1 column, not 0"),
        (dict(policy="nera"), "did you mean 'near'"),
    ],
)
def test_no_columns_or_an_unknown_policy_is_refused(hybrid_like, settings, said):
    with pytest.raises(UserError, match=said):
        Hybrid(hybrid_like, **settings)


def test_a_sampler_of_the_papers_form_takes_no_columns(trained_like):
    with pytest.raises(UserError, match="depth 0 reads the whole canvas: it takes no columns"):
        Hybrid(trained_like)


def test_a_cache_of_finished_blocks_is_refused(tiny, hybrid_like):
    for update in (hybrid_like, Refresh(4)):
        with pytest.raises(UserError, match="use cache='none'"):
            generate(
                tiny, update, method="joint", k=2, block_length=4, max_new_tokens=8, cache="prefix"
            )


def test_no_columns_are_refused_and_do_not_mean_the_samplers_own(pair_of):
    _, sampler = pair_of("stock")
    assert joint_update(sampler).columns == sampler.config.columns
    with pytest.raises(UserError, match="at least 1 column"):
        joint_update(sampler, columns=0)
