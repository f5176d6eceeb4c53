"""Prompts of corpus rows: from a file, a hub data set or the built-in tasks, one per row.

A template makes a prompt of the columns of a row (``sources.py`` reads the rows).
Which corpus rows keep their prompt is decided here too. Prompts become token ids
in ``decoding/prompts.py``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .. import rng
from ..decoding.generate import Prompt
from ..errors import UserError, unknown_name
from ..tasks import TAUGHT, examples
from . import sources

TASKS_SOURCE = "tasks"
TEMPLATE = "{prompt}"


@dataclass(frozen=True)
class PromptSource:
    """Where prompts come from, and how a row becomes a prompt."""

    name: str  # "tasks", a file, or a hub data set
    template: str = TEMPLATE  # text with {column} in it
    revision: str | None = None  # of the hub data set

    def identity(self) -> tuple[str, ...]:
        """What determines the prompts."""
        if self.name == TASKS_SOURCE:
            return (self.name,)
        return (sources.identity(self.name, self.revision), self.template)


def prompt_source(
    name: str | None, template: str, revision: str | None, chat: bool
) -> PromptSource | None:
    """The source that a configuration names; UserError where a chat has no prompts."""
    if name is None:
        if chat:
            raise UserError(
                "corpus.chat=true needs prompts to put into the template: set corpus.prompts."
            )
        return None
    return PromptSource(name, template, revision)


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names; UserError where it names none or is malformed."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"corpus.prompt_template={template!r} is malformed ({error}): name columns as {{query}}, and "
            "double braces that are text."
        ) from None
    columns = tuple(dict.fromkeys(name for _, name, _, _ in parts if name))
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not columns or not plain or any(name == "" for _, name, _, _ in parts):
        raise UserError(
            f"corpus.prompt_template={template!r} must name columns, each as {{query}} without a format."
        )
    return columns


def render(template: str, row: Mapping[str, object]) -> str | None:
    """The prompt of a row; None where a column of it is no text."""
    text = ""
    for literal, name, _, _ in string.Formatter().parse(template):
        value = "" if name is None else row.get(name)
        if not isinstance(value, str):
            return None
        text += literal + value
    return text


def first_prompts(source: PromptSource, seed: int) -> tuple[str, ...]:
    """Some prompts of the source for a plan, read without the rest of it; () where that is impossible.

    Raises UserError: unreadable source, a template with an unknown column, a column without text.
    """
    columns = template_columns(source.template)
    if source.name == TASKS_SOURCE:
        return read_prompts(source, 64, seed)
    head = sources.first_rows(source.name, source.revision)
    if head is None:
        return ()
    _check_columns(source, columns, head.columns)
    return tuple(_rendered(source, columns, head.rows))


def corpus_prompts(
    source: PromptSource | None, count: int, seed: int, share: float = 1.0, chat: bool = False
) -> tuple[Prompt, ...] | None:
    """One prompt per row for ``count`` rows, or None where all rows are unconditional.

    A ``share`` of the rows keeps its prompt. ``chat`` makes each prompt the user's
    turn of a conversation. Raises UserError: unreadable source, unknown column.
    """
    if source is None:
        return None
    prompts: tuple[Prompt, ...] = read_prompts(source, count, seed)
    if chat:
        prompts = as_chat(prompts)
    return thin_out(prompts, share, seed)


def read_prompts(source: PromptSource, count: int, seed: int) -> tuple[str, ...]:
    """``count`` prompts, repeated from the start where the source has fewer."""
    if source.name == TASKS_SOURCE:
        names = sorted(TAUGHT)
        made = {name: examples(TAUGHT[name], seed, -(-count // len(names))) for name in names}
        return tuple(made[names[i % len(names)]][i // len(names)].prompt for i in range(count))
    columns = template_columns(source.template)
    prompts: list[str] = []
    for row in sources.all_rows(source.name, source.revision):
        if not prompts:
            _check_columns(source, columns, row)
        prompts += _rendered(source, columns, [row])
        if len(prompts) == count:
            break
    if not prompts:
        raise UserError(f"corpus.prompts={source.name!r} holds no prompts: give one text per row.")
    return tuple(prompts[i % len(prompts)] for i in range(count))


def _check_columns(source: PromptSource, named: tuple[str, ...], present) -> None:
    for column in named:
        if column not in present:
            raise unknown_name(
                f"column of corpus.prompts={source.name!r} in corpus.prompt_template",
                column,
                present,
            )


def _rendered(source: PromptSource, columns: tuple[str, ...], rows) -> list[str]:
    """The prompts of the rows; a row whose columns are all empty gives none."""
    made = []
    for row in rows:
        prompt = render(source.template, row)
        if prompt is None:
            raise UserError(
                f"corpus.prompts={source.name!r} has a row without text in a column of "
                f"corpus.prompt_template ({', '.join(columns)}): give one text per row."
            )
        if any(row[column] for column in columns):
            made.append(prompt)
    return made


def as_chat(prompts: tuple[str, ...]) -> tuple[tuple[Mapping[str, str], ...], ...]:
    """Each prompt as the user's turn of a conversation."""
    return tuple(({"role": "user", "content": prompt},) for prompt in prompts)


def thin_out(prompts: tuple[Prompt, ...], share: float, seed: int) -> tuple[Prompt, ...]:
    """Keep the prompts of a ``share`` of the rows; the others get "", an unconditional row."""
    kept = rng.uniform(seed, torch.arange(len(prompts)), rng.PROMPTED) < share
    return tuple(
        prompt if keep else "" for prompt, keep in zip(prompts, kept.tolist(), strict=True)
    )
