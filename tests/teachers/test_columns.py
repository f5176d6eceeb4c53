"""Rerunning a teacher's own layers at a few columns, for every family, padded and unpadded."""

from __future__ import annotations

import threading

import pytest
import torch

from jointsampler import UserError, load_teacher
from jointsampler.teachers.columns import KeyValues, check_rerun
from tests.support import masked_lms
from tests.support.families import NAMES, WRITERS, load_family

B, S = 3, 14


@pytest.fixture(scope="module")
def teacher_of(tmp_path_factory, tiny):
    """Load each family once."""
    root, loaded = tmp_path_factory.mktemp("columns"), {"stock": tiny}

    def load(name: str):
        if name not in loaded:
            loaded[name] = load_family(root, name)
        return loaded[name]

    return load


def canvas(teacher, padded: bool, seed: int = 0):
    """ids [3, 14] with masks, and a padding mask, or None, with rows of 10, 14 and 7 tokens."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 40, (B, S), generator=draw)
    ids[:, 8:12] = teacher.mask_id
    if not padded:
        return ids, None
    real = torch.arange(S) >= torch.tensor([[4], [0], [7]])
    return ids.masked_fill(~real, teacher.pad_id), real


def raw(teacher, ids, real):
    """A full pass's outputs [B, S, H] that are not aligned, as those of ``rerun``."""
    unshifted = teacher.reading(())
    unshifted.shift = 0
    return unshifted.hidden(ids, real)


def changed(teacher, ids):
    """Two masks revealed and one token changed."""
    new = ids.clone()
    new[:, 9], new[:, 11], new[:, 12] = 5, 17, 23
    return new


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_rerunning_all_columns_equals_a_full_pass_on_the_new_ids_bit_for_bit(
    teacher_of, name, padded
):
    teacher = teacher_of(name)
    ids, real = canvas(teacher, padded)
    stored = KeyValues()
    teacher.hidden(ids, real, stored)
    new = changed(teacher, ids)
    out = teacher.rerun(new, torch.arange(S).expand(B, -1), real, stored)
    assert torch.equal(out, raw(teacher, new, real))
    assert not torch.allclose(out, raw(teacher, ids, real), atol=1e-3)


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_rerunning_three_columns_of_an_unchanged_canvas_reproduces_the_full_pass(
    teacher_of, name, padded
):
    """Within rounding: products of other shapes sum in another order."""
    teacher = teacher_of(name)
    check_rerun(teacher)
    ids, real = canvas(teacher, padded)
    stored = KeyValues()
    teacher.hidden(ids, real, stored)
    before = stored.select(torch.arange(B))
    columns = torch.tensor([[4, 9, 13], [0, 8, 8], [13, 7, 10]])  # any order, and one twice
    out = teacher.rerun(ids, columns, real, stored)
    full = raw(teacher, ids, real)
    expected = full.gather(1, columns[..., None].expand(-1, -1, full.shape[-1]))
    assert (out - expected).abs().max() <= 2e-6 * full.abs().max()
    for old, new in zip(before.keys + before.values, stored.keys + stored.values, strict=True):
        assert torch.allclose(old, new, rtol=0, atol=2e-6 * float(old.abs().max()))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_plain_pass_is_that_of_sdpa_and_stores_nothing(teacher_of, name):
    teacher = teacher_of(name)
    stored = KeyValues()
    for padded in (False, True):
        ids, real = canvas(teacher, padded)
        plain, storing = teacher.hidden(ids, real), teacher.hidden(ids, real, stored)
        assert torch.equal(plain, storing)
        count, keys = len(stored), [key.clone() for key in stored.keys]
        teacher.hidden(changed(teacher, ids), real)
        assert len(stored) == count > 0
        assert all(torch.equal(a, b) for a, b in zip(keys, stored.keys, strict=True))
        if name == "mdlm":  # a network of ours, without an attention option
            continue
        config = teacher.model.config
        config._attn_implementation, ours = "sdpa", config._attn_implementation
        try:
            assert ours == "columns" and torch.equal(teacher.hidden(ids, real), plain)
        finally:
            config._attn_implementation = ours


@pytest.mark.parametrize("name", ["stock", "dream", "mdlm", "albert", "modernbert"])
@torch.no_grad()
def test_two_interleaved_rounds_do_not_disturb_each_other(teacher_of, name):
    """One model, two rounds, in turn and in two threads: each computes what it computes alone."""
    teacher = teacher_of(name)
    columns = torch.tensor([[4, 9, 11], [1, 9, 12], [7, 9, 11]])

    def opening(seed):
        ids, real = canvas(teacher, True, seed)
        stored = KeyValues()
        teacher.hidden(ids, real, stored)
        return ids, real, stored

    def update(ids, real, stored):
        return teacher.rerun(changed(teacher, ids), columns, real, stored)

    alone = [update(*opening(seed)) for seed in (1, 2)]
    first, second = opening(1), opening(2)
    assert torch.equal(update(*first), alone[0])
    assert torch.equal(update(*second), alone[1])
    results: dict[int, list[torch.Tensor]] = {1: [], 2: []}

    def work(seed):
        with torch.no_grad():
            results[seed] = [update(*opening(seed)) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, want in zip((1, 2), alone, strict=True):
        assert len(results[seed]) == 10
        assert all(torch.equal(got, want) for got in results[seed])


@pytest.mark.parametrize("name", ["stock", "dream", "mdlm", "modernbert"])
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@torch.no_grad()
def test_selected_rows_rerun_as_they_do_among_the_others(teacher_of, name, padded):
    teacher = teacher_of(name)
    ids, real = canvas(teacher, padded)
    new, columns = changed(teacher, ids), torch.tensor([[9, 11, 12]] * B)
    stored = KeyValues()
    teacher.hidden(ids, real, stored)
    rows = torch.tensor([2, 0])
    some = stored.select(rows)
    together = teacher.rerun(new, columns, real, stored)
    alone = teacher.rerun(new[rows], columns[rows], None if real is None else real[rows], some)
    assert torch.allclose(alone, together[rows], atol=1e-5)
    assert torch.allclose(some.keys[0], stored.keys[0][rows], atol=1e-5)  # its own new keys


def test_layers_share_one_mask_in_every_copy(teacher_of):
    teacher = teacher_of("modernbert")
    stored = KeyValues()
    teacher.hidden(*canvas(teacher, True), stored)
    kinds = {id(mask) for mask in stored.masks}
    assert len(stored) == 4 and len(kinds) == 2  # full and sliding
    assert len({id(mask) for mask in stored.select(torch.tensor([0, 2])).masks}) == 2


def test_a_rerun_without_a_stored_pass_says_so(tiny):
    with pytest.raises(ValueError, match="store them first"):
        tiny.rerun(torch.zeros(1, 4, dtype=torch.long), torch.tensor([[1]]), None, KeyValues())


@pytest.mark.parametrize("kind", masked_lms.CLOSED)
def test_a_class_outside_the_attention_interface_loads_and_is_refused(tmp_path, kind):
    model = masked_lms.write(tmp_path, kind)
    teacher = load_teacher(str(tmp_path), device="cpu")
    ids, _ = canvas(teacher, False)
    want = model(input_ids=ids).logits.detach()
    want[..., teacher.forbidden_ids] = -torch.inf
    assert torch.allclose(teacher.logits(teacher.hidden(ids)), want, atol=1e-5)
    for _ in range(2):  # the second answer is the stored one
        with pytest.raises(UserError, match="outside transformers' attention interface"):
            check_rerun(teacher)


def test_a_class_that_mixes_columns_elsewhere_is_refused(tiny):
    """A layer that reads the mean over its input, as a convolution or a pooling would."""
    other = tiny.reading(())
    norm = tiny.model.model.norm
    handle = norm.register_forward_hook(lambda _, __, out: out + out.mean(1, keepdim=True))
    try:
        with pytest.raises(UserError, match="differs from the full pass"):
            check_rerun(other)
    finally:
        handle.remove()
    check_rerun(tiny)


def test_a_class_that_fails_on_few_columns_is_refused(tiny):
    """As one with a bias for all pairs of positions would."""
    other = tiny.reading(())
    bias = torch.zeros(12, 1)
    handle = tiny.model.model.norm.register_forward_hook(lambda _, __, out: out + bias)
    try:
        with pytest.raises(UserError, match="fails on an input of a few columns"):
            check_rerun(other)
    finally:
        handle.remove()


def test_angles_that_depend_on_the_length_are_refused(tiny):
    other = tiny.reading(())
    rotary = tiny.model.config.rope_parameters
    kind = rotary["rope_type"]
    rotary["rope_type"] = "dynamic"
    try:
        with pytest.raises(UserError, match="depend on the length of the input"):
            check_rerun(other)
    finally:
        rotary["rope_type"] = kind


def test_a_bfloat16_teacher_passes_the_check(teacher_of, tmp_path):
    for name in ("dream", "modernbert"):
        WRITERS[name](tmp_path / name)
        check_rerun(load_teacher(str(tmp_path / name), device="cpu", dtype="bfloat16"))


def own_layers(teacher, ids, real, depth: int):
    """Final hidden states, and the outputs of layers ``depth`` and the last one; not aligned."""
    unshifted = teacher.reading((depth, teacher.layers))
    unshifted.shift = 0
    return unshifted.hidden(ids, real).split(teacher.hidden_size, dim=-1)


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_lower_layers_at_all_columns_are_those_of_a_full_pass_bit_for_bit(
    teacher_of, name, padded
):
    teacher = teacher_of(name)
    ids, real = canvas(teacher, padded)
    new, every = changed(teacher, ids), torch.arange(S).expand(B, -1)
    for depth in range(1, teacher.layers + 1):
        stored = KeyValues()
        teacher.hidden(ids, real, stored)
        above = [key.clone() for key in stored.keys[depth:]]
        out = teacher.rerun(new, every, real, stored, depth)
        assert torch.equal(out, own_layers(teacher, new, real, depth)[1])
        # No layer above it has run.
        assert all(torch.equal(a, b) for a, b in zip(above, stored.keys[depth:], strict=True))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_lower_layers_at_three_columns_of_an_unchanged_canvas_are_those_of_the_full_pass(
    teacher_of, name
):
    """Within rounding: products of other shapes sum in another order."""
    teacher = teacher_of(name)
    ids, real = canvas(teacher, True)
    stored, depth = KeyValues(), teacher.layers - 1
    teacher.hidden(ids, real, stored)
    columns = torch.tensor([[4, 9, 13], [0, 8, 8], [13, 7, 10]])
    out = teacher.rerun(ids, columns, real, stored, depth)
    full = own_layers(teacher, ids, real, depth)[1]
    expected = full.gather(1, columns[..., None].expand(-1, -1, full.shape[-1]))
    assert (out - expected).abs().max() <= 2e-6 * full.abs().max()


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_last_layers_output_behind_the_final_norm_is_the_final_hidden_state(
    teacher_of, name, padded
):
    teacher = teacher_of(name)
    ids, real = canvas(teacher, padded)
    final, _, top = own_layers(teacher, ids, real, 1)
    assert torch.allclose(teacher.finish(top), final, rtol=0, atol=1e-6)
    # Position by position, so a few columns can be finished alone.
    assert torch.allclose(teacher.finish(top[:, 9:11]), final[:, 9:11], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_layer_that_the_network_lacks_is_named(tiny):
    ids, real = canvas(tiny, False)
    stored = KeyValues()
    tiny.hidden(ids, real, stored)
    with pytest.raises(ValueError, match="The network has no layer 11"):
        tiny.rerun(ids, torch.tensor([[9]] * B), real, stored, 11)
    assert torch.equal(tiny.hidden(ids, real), tiny.hidden(ids, real))  # nothing was left behind
