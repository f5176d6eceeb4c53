"""How one sample was unmasked, as the report's step-through reads it.

A record is compact: the tokens' texts, the order of the reveals and the number
of reveals of each round. Every state on the way follows from these.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from ..decoding.generate import Generation
from ..teachers.protocol import Teacher

PARTIAL = "\ufffd"  # how a tokenizer shows a character that its next token completes


class Unmasking(BaseModel):
    """One sample of a response of L positions. Round r made ``rounds[r]`` of the reveals."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    tokens: list[str]
    """Text of the token at each position; joined they are the whole text."""
    order: list[int]
    """Response position of each reveal, the first one first."""
    rounds: list[int]
    """Reveals of each round, in order; they sum to the length of ``order``."""
    end: int
    """Position of the first end token; the response's length where there is none."""

    @model_validator(mode="after")
    def _is_one_path(self) -> Unmasking:
        places = set(self.order)
        if len(places) != len(self.order) or not places <= set(range(len(self.tokens))):
            raise ValueError("order names a position twice, or one that has no token")
        if sum(self.rounds) != len(self.order):
            raise ValueError("the rounds have another number of reveals than the order")
        return self


def unmaskings(generation: Generation, teacher: Teacher, count: int) -> list[Unmasking]:
    """Records of the first ``count`` samples of ``generation``."""
    rows = zip(
        generation.responses[:count].tolist(),
        generation.order[:count].tolist(),
        generation.round[:count],
        generation.effective_tokens[:count].tolist(),
        strict=True,
    )
    return [
        Unmasking(
            tokens=token_texts(teacher, tokens),
            order=[position for position in order if position >= 0],
            rounds=_reveals_per_round(rounds),
            end=end,
        )
        for tokens, order, rounds, end in rows
    ]


def _reveals_per_round(rounds: Tensor) -> list[int]:
    """Counts of the round [L] int64 of each reveal; it is -1 past an early end."""
    return rounds[rounds >= 0].unique_consecutive(return_counts=True)[1].tolist()


def token_texts(teacher: Teacher, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to the text before it.

    Joined they are the decoded text, also where the text of a token depends on its
    neighbours. A character of several tokens belongs to the last of them.
    """
    if teacher.tokenizer is None:
        return [f"{i} " for i in ids]
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        text = teacher.tokenizer.decode(ids[:end])
        if end < len(ids):
            text = text.rstrip(PARTIAL)
        # A tokenizer may change what it said before; what both texts begin with stands.
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False))
        texts.append(text[sum(1 for _ in same) :])
        before = text
    return texts
