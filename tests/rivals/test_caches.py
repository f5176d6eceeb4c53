"""Steps, prefix cache and Elastic-Cache keep to their definitions."""

from __future__ import annotations

import pytest
import torch

from jointsampler import Refresh, UserError, generate
from jointsampler.columns import Seen
from jointsampler.decoding.generate import decode
from jointsampler.decoding.loop import Strategy
from jointsampler.decoding.orders import Entropy
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import Adaptive, FixedK
from jointsampler.rivals.elastic import Elastic, Window
from jointsampler.rivals.steps import Steps
from jointsampler.rivals.suffix import Suffix
from jointsampler.rivals.within import Within
from jointsampler.teachers.keyvalues import KeyValues
from tests.rivals.conftest import LENGTH, PROMPTS


def run(teacher, update, rule, order=None):
    strategy = Strategy(update, rule, order or Entropy(), Sampling(), 3)
    encoded = encode_prompts(teacher, PROMPTS, LENGTH)
    return decode(teacher, strategy, encoded, torch.arange(3), LENGTH, method="test")


def elastic(teacher, window, budget, tokens=1):
    rule = Adaptive(LENGTH, budget)
    return run(teacher, Elastic(window, tokens), rule, Within(Entropy(), 0.5))


def test_one_token_a_step_is_a_refresh(tiny):
    same = generate(tiny, Refresh(4), PROMPTS, "refresh", 8, max_new_tokens=LENGTH, seed=3)
    out = run(tiny, Steps(4, "attention"), FixedK(8))
    assert torch.equal(out.sequences, same.sequences)
    assert torch.equal(out.update_passes, same.update_passes)


def test_as_many_tokens_a_step_as_a_round_has_are_the_marginals(tiny):
    same = generate(tiny, None, PROMPTS, "marginal", 4, max_new_tokens=LENGTH, seed=3)
    out = run(tiny, Steps(4, "attention", tokens=4), FixedK(4))
    assert torch.equal(out.sequences, same.sequences) and int(out.update_passes.sum()) == 0


def test_steps_over_all_columns_are_rounds_of_the_marginals(tiny):
    """A pass over all columns is a full pass, and every token of a step is in it."""
    same = generate(tiny, None, PROMPTS, "marginal", 2, max_new_tokens=LENGTH, seed=3)
    out = run(tiny, Steps(99, "near", tokens=2), FixedK(8))
    assert torch.equal(out.sequences, same.sequences)
    assert (out.teacher_passes == 2).all() and (out.update_passes == 6).all()


def test_a_step_of_no_token_is_refused():
    with pytest.raises(UserError, match="at least 1 token"):
        Steps(4, "near", tokens=0)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    ("position", "open_from", "first"), [(9, 8, 8), (13, 12, 12), (23, 20, 20)]
)
def test_a_prefix_cache_recomputes_the_block_and_all_behind_it(shift, position, open_from, first):
    """24 columns, blocks of 4 from column 4 on; the first row has no candidate left."""
    masked = torch.zeros(2, 24, dtype=torch.bool)
    masked[1, open_from : open_from + 4] = True
    masked[1, position] = False
    at = torch.tensor([position, position])
    scores = torch.zeros(2, 24)
    seen = Seen.of(at, masked, scores, shift, None, KeyValues(), 4)
    columns = Suffix(4).choose(8, seen)
    assert sorted(columns[1].tolist()) == list(range(first - shift, 24))


def test_a_window_is_the_leftmost_masked_positions():
    masked = torch.tensor([[False] * 4 + [True, False, True, True, True, True]])
    seen = Seen.of(torch.tensor([5]), masked, torch.zeros(1, 10), 0, None, KeyValues(), 2)
    assert Window().choose(4, seen)[0].tolist() == [5, 4, 6, 7]
    # Where fewer are masked, the nearest known positions follow.
    assert Window().choose(8, seen)[0].tolist() == [5, 4, 6, 7, 8, 9, 3, 2]


@pytest.mark.parametrize("tokens", [1, 2])
def test_tokens_are_revealed_inside_the_window(tiny, tokens):
    for order in elastic(tiny, 3, 1.0, tokens).order.tolist():
        left = list(range(LENGTH))
        for position in order:
            # Of a step's tokens the later ones still see the window of the pass.
            assert left.index(position) < 3
            left.remove(position)
    free = run(tiny, Elastic(3), Adaptive(LENGTH, 1.0))
    assert any(order != sorted(order) for order in free.order.tolist())


def test_drift_decides_when_a_full_pass_is_due(tiny):
    lax, strict = elastic(tiny, 8, 2.0), elastic(tiny, 8, 0.0)
    assert (lax.teacher_passes == 1).all()
    # The first partial pass has none before it; the second has some drift in some layer.
    assert (strict.teacher_passes == LENGTH // 2).all()
    between = elastic(tiny, 8, 0.05).teacher_passes
    assert (lax.teacher_passes <= between).all() and (between <= strict.teacher_passes).all()


def test_the_drift_is_that_of_the_attention_recomputed_by_hand(tiny):
    """Of the first layer, which the window's own change reaches through the new token alone."""
    ids = torch.tensor([encode_prompts(tiny, PROMPTS[:1], LENGTH)[0] + [tiny.mask_id] * 8])
    stored = KeyValues()
    seen: list[torch.Tensor] = []
    tiny.hidden(ids, None, stored)

    def watch(call, query, key, mask):
        if call == 0:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            seen.append((query @ key.transpose(2, 3)).softmax(-1))

    stored.watch = watch
    columns = torch.arange(ids.shape[1])[None]
    tiny.rerun(ids, columns, None, stored)
    assert seen[0].shape[-2:] == (ids.shape[1], ids.shape[1])
    assert torch.allclose(seen[0].sum(-1), torch.ones_like(seen[0].sum(-1)))
    changed = ids.clone()
    changed[0, -1] = 7
    tiny.rerun(changed, columns, None, stored)
    # A query attends otherwise to the column with another token alone, up to the softmax.
    ratio = seen[1][..., :-1, :-1] / seen[0][..., :-1, :-1]
    assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio), atol=1e-4)
