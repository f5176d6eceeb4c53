"""Prefix cache and Elastic-Cache keep to their definitions."""

from __future__ import annotations

import pytest
import torch

from jointsampler.columns import Seen
from jointsampler.decoding.generate import decode
from jointsampler.decoding.orders import Entropy
from jointsampler.decoding.prompts import encode_prompts
from jointsampler.decoding.sampling import Sampling
from jointsampler.decoding.stops import Adaptive, FixedK, Threshold
from jointsampler.decoding.strategy import Strategy
from jointsampler.rivals.elastic import Elastic, Window
from jointsampler.rivals.suffix import Suffix
from jointsampler.rivals.within import Within
from jointsampler.teachers.keyvalues import KeyValues
from jointsampler.updates import Reveal, full_pass
from tests.rivals.conftest import LENGTH, PROMPTS


def run(teacher, update, rule, order=None, step=None):
    strategy = Strategy(update, rule, order or Entropy(), Sampling(), 3, step=step)
    encoded = encode_prompts(teacher, PROMPTS, LENGTH)
    return decode(teacher, strategy, encoded, torch.arange(3), LENGTH, method="test")


def elastic(teacher, window, budget, step=None):
    rule = Adaptive(LENGTH, budget)
    return run(teacher, Elastic(window), rule, Within(Entropy(), 0.5), step)


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


@pytest.mark.parametrize("step", [None, FixedK(2), Threshold(3, 0.01)])
def test_tokens_are_revealed_inside_the_window(tiny, step):
    for order in elastic(tiny, 3, 1.0, step).order.tolist():
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


@torch.inference_mode()
def test_the_drift_is_that_of_the_attention_to_the_most_attended_token(tiny):
    """By hand, from every layer's attention in the first two passes of a round."""
    (prompt,) = encode_prompts(tiny, PROMPTS[:1], LENGTH)
    ids, start = torch.tensor([prompt + [tiny.mask_id] * LENGTH]), len(prompt)
    opening = full_pass(tiny, ids, None, "keys")
    state = Elastic(window=4).begin(tiny, opening, None)
    watched, maps = opening.stored.watch, []

    def watch(call, query, key, mask):
        every = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        maps.append((query @ every.transpose(2, 3)).softmax(-1).mean(1)[0])  # [C, S]
        watched(call, query, key, mask)

    opening.stored.watch = watch
    for place in (start, start + 1):
        ids[0, place] = 7
        masked = ids == tiny.mask_id
        state.advance(Reveal(ids, torch.tensor([place]), masked, masked.float(), start))
    layers = len(maps) // 2
    drifts = []
    for first, second in zip(maps[:layers], maps[layers:], strict=True):
        # Rows are the revealed column and the four leftmost masked ones, which both passes share but for one.
        token = first[1:, : start + 1].sum(0).argmax()
        drifts.append(1 - torch.cosine_similarity(first[2:, token], second[1:-1, token], dim=0))
    assert state.estimate(None).item() == pytest.approx(max(drifts).item(), abs=1e-6)
    assert max(drifts) > 1e-5
