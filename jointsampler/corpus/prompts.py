"""Prompts of corpus rows: read from a file, a hub data set or the built-in tasks, one per row.

Which rows keep their prompt is decided here too. Prompts become token ids in
``decoding/prompts.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from .. import rng
from ..decoding.generate import Prompt
from ..errors import UserError
from ..tasks import TASKS, examples

KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text"}
COLUMN = "prompt"


def corpus_prompts(
    source: str | None, count: int, seed: int, share: float = 1.0, chat: bool = False
) -> tuple[Prompt, ...] | None:
    """One prompt per row for ``count`` rows, or None where all rows are unconditional.

    A ``share`` of the rows keeps its prompt. ``chat`` makes each prompt the user's
    turn of a conversation. Raises UserError: unreadable source, chat without prompts.
    """
    if source is None:
        if chat:
            raise UserError(
                "corpus.chat=true needs prompts to put into the template: set corpus.prompts."
            )
        return None
    prompts: tuple[Prompt, ...] = read_prompts(source, count, seed)
    if chat:
        prompts = as_chat(prompts)
    return thin_out(prompts, share, seed)


def read_prompts(source: str, count: int, seed: int) -> tuple[str, ...]:
    """``count`` prompts, repeated from the start where the source has fewer.

    ``source`` is "tasks", a file, or a hub data set; ``:column`` behind either of
    the latter names a column other than "prompt".
    """
    if source == "tasks":
        names = sorted(TASKS)
        made = {name: examples(TASKS[name], seed, -(-count // len(names))) for name in names}
        return tuple(made[names[i % len(names)]][i // len(names)].prompt for i in range(count))
    prompts = _read(source)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError(
            f"corpus.prompts={source!r} holds no prompts, or some that are not text: give one text per row."
        )
    return tuple(prompts[i % len(prompts)] for i in range(count))


def _read(source: str) -> list[object]:
    """The non-empty prompts of a file or a hub data set."""
    import datasets  # takes seconds to import

    name, column = source, COLUMN
    before, colon, after = source.rpartition(":")
    if colon and "/" not in after:
        name, column = before, after
    path = Path(name).expanduser()
    kind = KINDS.get(path.suffix)
    if kind and not path.is_file():
        raise UserError(f"corpus.prompts={source!r}: there is no such file.")
    if kind == "text":
        column = "text"
    try:
        if kind:
            data = datasets.load_dataset(kind, data_files=str(path), split="train")
        else:
            data = datasets.load_dataset(name, split="train")
        return [prompt for prompt in data[column] if prompt != ""]
    except Exception as error:  # the library raises dozens of types here
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Cannot read prompts from corpus.prompts={source!r} ({reason}): give a .jsonl or .parquet "
            f"file or a hub data set with a column {COLUMN!r} (SOURCE:COLUMN names another), a .txt file "
            "with one prompt a line, or 'tasks'."
        ) from None


def as_chat(prompts: tuple[str, ...]) -> tuple[tuple[Mapping[str, str], ...], ...]:
    """Each prompt as the user's turn of a conversation."""
    return tuple(({"role": "user", "content": prompt},) for prompt in prompts)


def thin_out(prompts: tuple[Prompt, ...], share: float, seed: int) -> tuple[Prompt, ...]:
    """Keep the prompts of a ``share`` of the rows; the others get "", an unconditional row."""
    kept = rng.uniform(seed, torch.arange(len(prompts)), rng.PROMPTED) < share
    return tuple(
        prompt if keep else "" for prompt, keep in zip(prompts, kept.tolist(), strict=True)
    )
