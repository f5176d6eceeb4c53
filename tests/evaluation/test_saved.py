"""A saved item is read back as it was, and never as another item's."""

from __future__ import annotations

import numpy as np
import pytest

from jointsampler import Refresh, block_kl, generate
from jointsampler.evaluation.items import KLItem, SampleItem, Samples
from jointsampler.evaluation.judges import Scores
from jointsampler.evaluation.saved import load, load_all, name_of, save

DRAWN = SampleItem("joint", 4, 0, 0, 2)
METERED = KLItem(0, 24)


def samples(scores: Scores | None) -> Samples:
    return Samples(["a", "b\n"], 12, 3, 3, 9, [1, 0, 2], 0.1 + 0.2, scores)


def test_samples_come_back_with_their_scores(tmp_path):
    features = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    scores = Scores(np.array([1.5, np.nan]), np.array([3, 0]), features)
    save(tmp_path, 3, DRAWN, samples(scores))
    back = load(tmp_path, 3, DRAWN)
    assert (back.texts, back.seconds, back.round_ends) == (["a", "b\n"], 0.1 + 0.2, [1, 0, 2])
    for name in ("nll", "tokens", "features"):
        then, now = getattr(scores, name), getattr(back.scores, name)
        assert then.dtype == now.dtype and np.array_equal(
            then, now, equal_nan=then.dtype.kind == "f"
        )
    save(tmp_path, 3, DRAWN, samples(None))
    assert load(tmp_path, 3, DRAWN) == samples(None)


def test_kls_come_back_by_their_keys(tmp_path, tiny):
    rows = generate(tiny, method="sequential", num_samples=2, max_new_tokens=6, seed=1)
    made = {
        ("refresh", k, path): block_kl(tiny, Refresh(3), rows, k, path=path)
        for k, path in ((2, "recorded"), (3, "own"))
    }
    made["marginal", 2, "own"] = block_kl(tiny, None, rows, 2, path="own")
    save(tmp_path, 0, METERED, made)
    back = load(tmp_path, 0, METERED)
    assert list(back) == list(made)
    for key, then in made.items():
        now = back[key]
        for name in ("k", "marginal", "update", "captured", "rounds"):
            assert getattr(now, name) == getattr(then, name)
        assert np.array_equal(now.per_trajectory, then.per_trajectory, equal_nan=True)
        for old, new in zip(then.walks, now.walks, strict=True):
            assert (old is None) == (new is None)
            for name, value in vars(old).items() if old else ():
                assert np.array_equal(value, getattr(new, name), equal_nan=value.dtype.kind == "f")


@pytest.mark.parametrize("damage", [b"", b"noise", b"[]", b'{"item": {}}', None])
def test_a_damaged_file_or_another_items_counts_as_missing(tmp_path, damage):
    save(tmp_path, 0, DRAWN, samples(None))
    save(tmp_path, 1, METERED, {})
    if damage is None:
        (tmp_path / name_of(1)).replace(tmp_path / name_of(0))
    else:
        (tmp_path / name_of(0)).write_bytes(damage)
    assert load(tmp_path, 0, DRAWN) is None
    assert 0 not in load_all(tmp_path, [DRAWN, METERED])
    assert load_all(tmp_path / "not there", [DRAWN]) == {}
