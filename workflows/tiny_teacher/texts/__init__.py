"""Texts that a teacher can be trained on: one file each, one signature."""

from __future__ import annotations

from typing import Protocol

from transformers import PreTrainedTokenizerFast

from jointsampler.errors import unknown_name

from .code import Code
from .paired import Paired


class Text(Protocol):
    name: str

    def training(self) -> list[str]:
        """Texts whose lines open training windows."""

    def held_out(self) -> list[str]:
        """Texts of the same kind that are never trained on."""

    def tokenizer(self, vocab_size: int, texts: list[str]) -> PreTrainedTokenizerFast:
        """A tokenizer of ``vocab_size`` ids; ``texts`` are those of ``training()``."""

    def card(self) -> str:
        """The model card's lines on data and held-out data."""


TEXTS: dict[str, Text] = {text.name: text for text in (Code(), Paired())}


def get_text(name: str) -> Text:
    """The text called ``name``; UserError for an unknown name."""
    if name not in TEXTS:
        raise unknown_name("text", name, TEXTS)
    return TEXTS[name]


__all__ = ["TEXTS", "Code", "Paired", "Text", "get_text"]
