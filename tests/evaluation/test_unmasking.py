"""A record of an unmasking is compact and loses nothing that the step-through shows."""

from __future__ import annotations

import pytest

from jointsampler import Refresh, generate
from jointsampler.evaluation.unmasking import Unmasking, token_texts, unmaskings


@pytest.fixture(scope="module")
def out(tiny):
    return generate(
        tiny, Refresh(4), method="refresh", k=3, num_samples=3, max_new_tokens=8, seed=2
    )


def test_the_order_and_the_rounds_are_those_of_the_generation(tiny, out):
    for row, record in enumerate(unmaskings(out, tiny, 3)):
        assert record.order == out.order[row].tolist()
        numbers = [r for r, reveals in enumerate(record.rounds) for _ in range(reveals)]
        assert numbers == out.round[row].tolist()
        assert record.rounds == [3, 3, 2] and record.end == out.effective_tokens[row]


def test_the_tokens_up_to_the_end_are_the_text(tiny, out):
    records = unmaskings(out, tiny, 2)
    assert ["".join(r.tokens[: r.end]) for r in records] == out.texts[:2]


def test_reveals_that_an_early_end_spared_are_in_no_round(tiny):
    # The answer takes a few tokens of the 24.
    out = generate(
        tiny, method="marginal", k=2, prompts=["reverse: ann bob ->"], num_samples=4,
        max_new_tokens=24, seed=1, order="left_to_right", stop_at_end=True,
    )  # fmt: skip
    ended = [r for r in unmaskings(out, tiny, 4) if len(r.order) < 24]
    assert ended and all(sum(r.rounds) == len(r.order) and r.end < 24 for r in ended)


class Bytes:
    """A tokenizer of single bytes: a character may take several tokens."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


class OfBytes:
    tokenizer = Bytes()


def test_a_character_of_several_tokens_belongs_to_the_last():
    text = "aé→b"
    pieces = token_texts(OfBytes(), list(text.encode()))
    assert pieces == ["a", "", "é", "", "", "→", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": [0, 0]}, "names a position twice"),
        ({"order": [0, 2]}, "has no token"),
        ({"rounds": [1]}, "another number of reveals"),
    ],
)
def test_a_record_that_is_no_path_is_refused(changes, message):
    whole = {"tokens": ["a", "b"], "order": [1, 0], "rounds": [2], "end": 2}
    assert Unmasking(**whole)
    with pytest.raises(ValueError, match=message):
        Unmasking(**whole | changes)
