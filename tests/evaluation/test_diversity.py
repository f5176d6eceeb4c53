"""Distinct-n and self-BLEU: known values, an independent program, and a collapse that shows."""

from __future__ import annotations

import random

import pytest
import sacrebleu

from jointsampler.evaluation.diversity import distinct_n, diversity, self_bleu


def texts(count: int, vocabulary: int, seed: int = 0, length: int = 12) -> list[str]:
    draw = random.Random(seed)
    names = [f"w{i}" for i in range(vocabulary)]
    return [" ".join(draw.choices(names, k=draw.randint(4, length))) for _ in range(count)]


def test_distinct_n_counts_ngrams():
    assert distinct_n([["a", "b", "a"], ["a", "b"]], 1) == pytest.approx(2 / 5)
    assert distinct_n([["a", "b", "a"], ["a", "b"]], 2) == pytest.approx(2 / 3)
    assert distinct_n([["a"], []], 2) == 0


@pytest.mark.parametrize("vocabulary", [3, 12, 200])
def test_self_bleu_is_what_sacrebleu_says_of_each_text_against_the_others(vocabulary):
    given = texts(14, vocabulary)
    found = self_bleu([text.split() for text in given])
    for i, text in enumerate(given):
        bleu = sacrebleu.sentence_bleu(
            text, given[:i] + given[i + 1 :], tokenize="none", smooth_method="floor",
            smooth_value=0.1, use_effective_order=False,
        )  # fmt: skip
        assert found[i] == pytest.approx(bleu.score / 100, rel=1e-6), text


def test_texts_that_repeat_each_other_have_self_bleu_one_and_strangers_nearly_none():
    same = self_bleu([["a", "b", "c", "d", "e"]] * 3)
    assert same == pytest.approx([1, 1, 1])
    apart = self_bleu([[f"{i}{w}" for w in "abcde"] for i in range(3)])
    assert apart.max() < 0.05
    assert self_bleu([[], ["a", "b"]])[0] == 0


def test_a_collapse_shows_in_both_scores():
    wide, narrow = (diversity([texts(20, v, seed) for seed in range(3)]) for v in (60, 3))
    for n in (1, 2, 4):
        assert narrow[0][n].high < wide[0][n].low
    assert narrow[1].low > wide[1].high and narrow[1].n == 3


def test_one_text_has_no_self_bleu_and_marks_are_words():
    distinct, bleu = diversity([["x = f(x)"]])
    assert bleu is None
    assert distinct[1].value == pytest.approx(5 / 6) and distinct[1].low is None  # x = f ( x )
