"""Attention to a column, and the policy that follows it."""

from __future__ import annotations

import pytest
import torch

from jointsampler.columns import Attention, NearThenScores, Seen
from jointsampler.teachers.columns import KeyValues
from tests.support.families import load_family

PADDED = pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])


def maps_by_hand(stored: KeyValues) -> torch.Tensor:
    """[calls, B, heads, S, S]: softmax over all keys, one score at a time from what was stored."""
    maps = []
    for query, key, mask in zip(stored.queries, stored.keys, stored.masks, strict=True):
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits = torch.einsum("bhqd,bhkd->bhqk", query, key)
        if mask is not None and mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            logits = logits + mask
        maps.append(logits.softmax(-1))
    return torch.stack(maps)


@PADDED
@pytest.mark.parametrize("name", ["stock", "dream", "mdlm", "a2d-qwen3", "albert", "modernbert"])
@torch.inference_mode()
def test_attention_to_a_column_is_that_of_the_maps_with_its_key_once_more_in_the_softmax(
    tmp_path, tiny, name, padded
):
    """Dream and A2D group their keys; Dream is shifted; ModernBERT has sliding windows."""
    teacher = tiny if name == "stock" else load_family(tmp_path, name)
    ids = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 7:10] = teacher.mask_id
    real = None
    if padded:
        real = torch.arange(12) >= torch.tensor([[4], [0], [2]])
        ids = ids.masked_fill(~real, teacher.pad_id)
    stored = KeyValues(queried=99)
    teacher.hidden(ids, real, stored)
    assert len(stored.queries) == len(stored) == teacher.layers
    columns = torch.tensor([7, 8, 11])
    each = torch.arange(3)
    maps = maps_by_hand(stored)  # a key of weight p, twice: p / (1 + p) for the second
    expected = (maps / (1 + maps)).mean((0, 2))[each, :, columns]  # [B, S]
    found = stored.attention_to(columns)
    queries = slice(None) if real is None else real
    assert torch.allclose(found[queries], expected[queries], rtol=1e-4, atol=1e-6)
    if real is not None:  # nothing goes to padding
        total = torch.stack([stored.attention_to(torch.full((3,), c)) for c in range(12)], dim=-1)
        assert total.masked_fill(real[:, None], 0)[real].max() < 1e-6


@torch.inference_mode()
def test_stored_maps_are_those_of_transformers_own_eager_attention(tiny):
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(2))
    ids[:, 5:] = tiny.mask_id
    stored = KeyValues(queried=99)
    tiny.hidden(ids, None, stored)
    config = tiny.model.config
    ours, config._attn_implementation = config._attn_implementation, "eager"
    try:
        maps = tiny.model.model(input_ids=ids, use_cache=False, output_attentions=True).attentions
    finally:
        config._attn_implementation = ours
    expected = (torch.stack(maps) / (1 + torch.stack(maps))).mean((0, 2))
    for column in range(9):
        found = stored.attention_to(torch.tensor([column, column]))
        assert torch.allclose(found, expected[:, :, column], atol=1e-5)


@torch.inference_mode()
def test_attention_to_a_recomputed_column_reads_its_new_key(tiny):
    ids = torch.full((1, 10), tiny.mask_id)
    stored = KeyValues(queried=99)
    tiny.hidden(ids, None, stored)
    before = stored.attention_to(torch.tensor([4]))
    ids[0, 4] = 9
    tiny.rerun(ids, torch.tensor([[4]]), None, stored)
    after = stored.attention_to(torch.tensor([4]))
    assert not torch.allclose(before, after, rtol=0.01)
    untouched = torch.tensor([6])
    assert torch.equal(
        stored.attention_to(untouched), stored.select(torch.tensor([0])).attention_to(untouched)
    )


def planted(size: int, position: int, far: int) -> KeyValues:
    """One call in which the query at ``far`` attends to ``position`` alone, all others to all keys."""
    stored = KeyValues(queried=99)
    key = torch.zeros(1, 1, size, 2)
    key[0, 0, position, 0] = 1.0
    query = torch.zeros(1, 1, size, 2)
    query[0, 0, far, 0] = 30.0
    stored.keep_query(query, key, None, 1.0)
    stored.keys.append(key)
    stored.values.append(key)
    stored.masks.append(None)
    return stored


@pytest.mark.parametrize("shift", [0, 1])
def test_a_far_dependency_is_found_where_nearness_and_scores_miss_it(shift):
    """Of 40 columns the one at 33 depends on the reveal at 5, and the order would reveal it last."""
    size, position, far = 40, 5, 33
    masked = torch.ones(1, size, dtype=torch.bool)
    masked[0, position] = False
    scores = torch.arange(size, dtype=torch.float32)[None]
    scores[0, far + shift] = 100.0
    seen = Seen.of(
        torch.tensor([position]), masked, scores, shift, None, planted(size, position, far)
    )
    assert Attention().choose(2, seen).tolist() == [[position, far]]
    assert far not in NearThenScores().choose(8, seen)[0]


def test_a_new_key_that_stands_out_receives_no_more_than_all_attention():
    """The full pass's softmax had a mask there; a known column's share stays below 1 too."""
    stored = planted(12, 4, 9)
    stored.keys[0][0, 0, 4, 0] = 3.0  # the new token's key, three times the mask's
    received = stored.attention_to(torch.tensor([4]))
    assert received.max() <= 1 and received[0, 9] > 0.999


def test_the_known_column_that_attends_most_comes_behind_a_few_masked_ones():
    stored = planted(12, 4, 9)
    stored.keys[0][0, 0, 4, 0] = 3.0
    masked = torch.arange(12)[None] > 4
    masked[0, 9] = False
    seen = Seen.of(torch.tensor([4]), masked, torch.zeros(1, 12), 0, None, stored)
    columns = Attention().choose(12, seen)[0].tolist()
    before = columns[1 : columns.index(9)]
    assert columns[0] == 4 and 4 <= len(before) <= 5 and masked[0, before].all()


@PADDED
@torch.inference_mode()
def test_the_rollout_is_that_of_the_maps_and_skips_padding(tmp_path, padded):
    teacher = load_family(tmp_path, "dream")  # grouped keys
    ids = torch.randint(0, 40, (3, 12), generator=torch.Generator().manual_seed(1))
    real = torch.ones(3, 12, dtype=torch.bool)
    if padded:
        real = torch.arange(12) >= torch.tensor([[4], [0], [2]])
        ids = ids.masked_fill(~real, teacher.pad_id)
    stored = KeyValues(queried=99)
    teacher.hidden(ids, real if padded else None, stored)
    reaching = torch.eye(12).expand(3, -1, -1)
    for layer in maps_by_hand(stored).mean(2):  # [B, S, S], the lowest layer first
        reaching = (layer + torch.eye(12)) / 2 @ reaching
    expected = (reaching * real[:, :, None]).sum(1)  # over the real columns that it reaches
    found = stored.rollout(real if padded else None)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(found.sum(1), real.sum(1).float(), atol=1e-3)
    assert found[~real].abs().sum() < 1e-4


def test_without_attention_the_near_columns_come_first_and_every_third_place_is_the_next_by_score():
    """Queries of zeros attend to all columns alike, so the bonus for nearness decides."""
    stored = planted(30, 10, 25)
    stored.queries[0].zero_()
    masked = torch.arange(30)[None] != 10
    scores = torch.arange(30, 0, -1, dtype=torch.float32)[None]  # the last is revealed next
    seen = Seen.of(torch.tensor([10]), masked, scores, 0, None, stored)
    columns = Attention().choose(7, seen)[0].tolist()
    assert columns == [10, 9, 11, 29, 8, 12, 28]


def test_a_far_column_that_attends_strongly_precedes_the_neighbours():
    seen = Seen.of(
        torch.tensor([10]), torch.arange(30)[None] != 10, torch.zeros(1, 30), 0, None,
        planted(30, 10, 25),
    )  # fmt: skip
    assert Attention().choose(3, seen)[0].tolist() == [10, 25, 9]
