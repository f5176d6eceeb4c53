"""Generated text whose tokens depend on tokens far away: a language for judging column policies.

A line has ``LENGTH`` letters of an alphabet of 32, in stretches of 5 to 12. A
stretch is either a chain, where each letter is one of four successors of the
letter before, or a strand, which pairs with the letters ``offset`` positions
earlier: each is the complement of its partner, with a little noise. The offset is
drawn for each stretch and written nowhere, so a reader infers the pairs of a line
from the letters that are known. No pair is nearer than the smallest offset.
"""

from __future__ import annotations

import hashlib
import random
import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jointsampler.errors import UserError

from ..tokenizer import PAD, SPECIAL, wrapped

LETTERS = string.ascii_letters[:32]
LENGTH = 110
OFFSETS = (24, 37, 51)  # positions between the two letters of a pair
STRETCH = (5, 12)  # letters, shortest and longest
NOISE = 0.05  # share of paired letters that are drawn uniformly instead
SUCCESSORS = (0.4, 0.3, 0.2, 0.1)  # probabilities of a letter's four successors in a chain
LINES = 48_000
HELD_OUT_LINES = 1_000


def complement(letter: int) -> int:
    """Its own inverse, without fixed points."""
    return len(LETTERS) - 1 - letter


def successors() -> list[list[int]]:
    """Four successors of each letter, the same in every corpus."""
    rng = random.Random("successors")
    return [rng.sample(range(len(LETTERS)), len(SUCCESSORS)) for _ in LETTERS]


class Paired:
    """See the file's docstring. ``lines`` training lines, generated from fixed seeds."""

    name = "paired"

    def __init__(self, lines: int = LINES):
        self.lines = lines
        self._next = successors()

    def training(self) -> list[str]:
        return self._texts("training", self.lines)

    def held_out(self) -> list[str]:
        return self._texts("held out", HELD_OUT_LINES)

    def _texts(self, part: str, lines: int, per_text: int = 500) -> list[str]:
        rng = random.Random(part)
        counts = [min(per_text, lines - start) for start in range(0, lines, per_text)]
        return ["".join(self.line(rng)[0] + "\n" for _ in range(n)) for n in counts]

    def line(self, rng: random.Random) -> tuple[str, list[int]]:
        """(LENGTH letters, the offset of the pair that each closes; 0 in a chain)."""
        letters: list[int] = []
        offsets: list[int] = []
        while len(letters) < LENGTH:
            offset = rng.choice([0, *(d for d in OFFSETS if d <= len(letters))])
            for _ in range(min(rng.randint(*STRETCH), LENGTH - len(letters))):
                letters.append(self._letter(rng, letters, offset))
                offsets.append(offset)
        return "".join(LETTERS[letter] for letter in letters), offsets

    def _letter(self, rng: random.Random, before: list[int], offset: int) -> int:
        if not before or (offset and rng.random() < NOISE):
            return rng.randrange(len(LETTERS))
        if offset:
            return complement(before[-offset])
        return rng.choices(self._next[before[-1]], SUCCESSORS)[0]

    def tokenizer(self, vocab_size: int, texts: list[str]) -> PreTrainedTokenizerFast:
        """One id for each letter, after the special ones and the newline."""
        symbols = [*SPECIAL, "\n", *LETTERS]
        if vocab_size != len(symbols):
            raise UserError(f"The text 'paired' needs vocab_size={len(symbols)}, not {vocab_size}.")
        vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return wrapped(tokenizer)

    def card(self) -> str:
        digest = hashlib.sha256("".join(self.training()).encode()).hexdigest()
        return f"""\
- **Data**: {self.lines:,} generated lines of {LENGTH} letters of {len(LETTERS)} (`texts/paired.py`): chains, and strands whose letters
  pair with those {", ".join(map(str, OFFSETS))} positions earlier. sha256: `{digest}`.
- **Held out**: {HELD_OUT_LINES:,} lines of another seed."""
