"""Which rows of a corpus are prompted."""

from __future__ import annotations

import pytest

from jointsampler.config import load_config
from workflows import corpus


def test_a_share_of_the_rows_is_prompted_whatever_the_number_of_rows():
    prompts = tuple(f"p{i}" for i in range(2000))
    some = corpus.thin_out(prompts, 0.25, seed=3)
    assert sum(prompt != "" for prompt in some) == pytest.approx(500, abs=60)
    assert all(prompt in ("", prompts[row]) for row, prompt in enumerate(some))
    assert corpus.thin_out(prompts[:10], 0.25, seed=3) == some[:10]
    assert corpus.thin_out(prompts, 1.0, seed=3) == prompts


def test_the_preset_of_the_shipped_sampler_plans(tmp_path):
    config = load_config("workflows/configs/tiny-sampler.yaml")
    plan = corpus.plan(config, tmp_path)
    empty = sum(prompt == "" for prompt in plan.prompts)
    assert plan.rows == len(plan.prompts) == 3840 and empty == pytest.approx(1920, abs=150)
