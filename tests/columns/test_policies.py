"""What holds for every column policy."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from jointsampler import Refresh, UserError
from jointsampler.columns import POLICIES, Attention, ColumnPolicy, NearThenScores, Seen, get_policy
from jointsampler.teachers.keyvalues import KeyValues
from tests.columns.cases import CASES, B, S, case

MASKED_FIRST = pytest.mark.parametrize(
    "policy", [get_policy(name) for name in ("near", "density")], ids=repr
)
EACH = pytest.mark.parametrize("policy", [*POLICIES.values(), NearThenScores(0)], ids=repr)
LAYERS, HEADS, KV, D = 2, 4, 2, 8


def stored_pass(rows: int, size: int, real: torch.Tensor | None, seed: int = 0) -> KeyValues:
    """What a full pass of two layers with random queries and keys stores."""
    draw, stored = torch.Generator().manual_seed(seed), KeyValues(queried=99)
    mask = None if real is None else real[:, None, None].expand(-1, 1, size, -1)
    for _ in range(LAYERS):
        query, key = (torch.randn(rows, n, size, D, generator=draw) for n in (HEADS, KV))
        stored.keep_query(query, key, mask, D**-0.5)
        stored.keys.append(key)
        stored.values.append(key.clone())
        stored.masks.append(mask)
    return stored


def seen_of(shift: int, padded: bool) -> Seen:
    position, masked, scores, real = case(shift, padded)
    previous = (position - 7).clamp_min(5)  # real also in the rows with the most padding
    stored = stored_pass(B, S, real)
    return Seen.of(position, masked, scores, shift, real, stored, 6, previous)


@EACH
@CASES
@pytest.mark.parametrize("count", [1, 3, 8, S, 99])
def test_columns_are_distinct_real_and_hold_the_revealed_one(policy, shift, padded, count):
    seen = seen_of(shift, padded)
    columns = policy.choose(count, seen)
    assert columns.shape == (B, min(count, S))
    assert torch.equal(columns[:, 0], seen.position)
    for row in range(B):
        chosen = columns[row].tolist()
        assert len(set(chosen)) == len(chosen) and set(chosen) <= set(range(S))
        if seen.attention_mask is not None:
            real = seen.attention_mask[row, columns[row]].int()
            assert (real.diff() <= 0).all()  # padding comes last
            assert int(real.sum()) == min(count, int(seen.attention_mask[row].sum()))


@MASKED_FIRST
@CASES
def test_columns_that_predict_a_masked_position_come_before_all_others(policy, shift, padded):
    seen = seen_of(shift, padded)
    columns = policy.choose(S, seen)[:, 1:]
    useful = seen.masked.gather(1, columns).int()
    assert (useful.diff(dim=1) <= 0).all()


@EACH
@CASES
def test_a_row_chooses_alike_alone_and_among_others(policy, shift, padded):
    seen = seen_of(shift, padded)
    together = policy.choose(6, seen)
    for row in (0, 7, 39):
        some = torch.tensor([row])
        tensors = {
            name: getattr(seen, name)[some]
            for name in ("position", "masked", "scores", "attention_mask", "previous")
            if getattr(seen, name) is not None
        }
        alone = dataclasses.replace(seen, **tensors, stored=seen.stored.select(some))
        assert torch.equal(policy.choose(6, alone)[0], together[row])


@EACH
@pytest.mark.parametrize("shift", [0, 1])
def test_a_row_chooses_alike_behind_padding(policy, shift):
    position, masked, scores, _ = case(shift, False)
    pads = 4

    def behind(x, fill, dim=1):
        shape = list(x.shape)
        shape[dim] = pads
        return torch.cat([torch.full(shape, fill, dtype=x.dtype), x], dim=dim)

    plain = stored_pass(B, S, None)
    real = torch.arange(S + pads).expand(B, -1) >= pads
    padded = KeyValues(
        keys=[behind(key, 7.0, 2) for key in plain.keys],
        masks=[real[:, None, None].expand(-1, 1, S + pads, -1)] * LAYERS,
        queried=99,
        queries=[behind(query, 7.0, 2) for query in plain.queries],
        norms=[behind(norm, -7.0, 2) for norm in plain.norms],
    )
    more = behind(masked, False), behind(scores, torch.inf)
    previous = position - 3
    one = Seen.of(position, masked, scores, shift, None, plain, 6, previous)
    other = Seen.of(position + pads, *more, shift, real, padded, 6 + pads, previous + pads)
    one, other = policy.choose(6, one), policy.choose(6, other)
    assert torch.equal(other, one + pads)


def test_the_policies_are_these_and_a_wrong_name_is_answered_with_the_nearest():
    assert list(POLICIES) == ["attention", "deep", "near", "block", "delayed", "density", "rollout"]
    assert all(isinstance(policy, ColumnPolicy) for policy in POLICIES.values())
    assert get_policy("attention") == Attention() and get_policy("near") == NearThenScores(2)
    own = NearThenScores(5)
    assert get_policy(own) is own and Refresh(3, own).keeps == "keys"
    assert Refresh(3).keeps == "queries"
    with pytest.raises(UserError, match="did you mean 'attention'"):
        get_policy("atention")
