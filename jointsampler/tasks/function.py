"""Write the body of a function: any code that Python parses is correct. Nothing is executed.

The prompt is code and no instruction, so a model of code needs no training on the task.
A response has a fixed length and may end in the middle of a statement; the beginning of
code that parses is correct too.
"""

from __future__ import annotations

import codeop
import random
import warnings

from ._task import NAMES, Answers, Example

_VERBS = ["count", "find", "merge", "check", "read", "sum", "split", "update"]
_NOUNS = ["items", "names", "values", "lines", "keys", "words", "pairs", "parts"]


def _begins_code(source: str) -> bool:
    """Whether ``source`` is Python, or could become it by more text behind it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd code, which is code all the same
        try:
            codeop.compile_command(source, symbol="exec")
        except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
            return False
    return True


def _has_code(text: str) -> bool:
    lines = (line.strip() for line in text.splitlines())
    return any(line and not line.startswith("#") for line in lines)


class Function:
    name = "function"

    def example(self, rng: random.Random) -> Example:
        verb, noun, (first, second) = rng.choice(_VERBS), rng.choice(_NOUNS), rng.sample(NAMES, 2)
        head = f"def {verb}_{noun}({first}, {second}):"
        words = f"{verb.capitalize()} the {noun} of {first} and {second}."
        return Example(
            f'{head}\n    """{words}"""\n',
            f"    {noun} = {first}.{verb}({second})\n    return {noun}\n",
        )

    def check(self, prompt: str, text: str) -> bool:
        whole_lines = text[
            : text.rfind("\n") + 1
        ]  # the last one may be cut in the middle of a word
        return any(_has_code(t) and _begins_code(prompt + t) for t in (text, whole_lines))

    def answers(self, prompt: str) -> Answers | None:
        return None
