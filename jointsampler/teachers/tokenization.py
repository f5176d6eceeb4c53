"""A teacher's tokenizer and its special ids.

A checkpoint's files (config.json, tokenizer, generation_config.json) can
disagree about special ids. Each family says which file it trusts; this file
reads them. Tokenizers load into stock classes, and no code of a checkpoint runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ..errors import UserError
from .checkpoint import Checkpoint, find_tokenizer

# Tokens that end an assistant's turn in the chat templates of the known families.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|role_end|>")


@dataclass(frozen=True)
class SpecialIds:
    mask: int
    bos: int | None
    eos: int | None
    pad: int
    ends: tuple[int, ...]

    def forbidden(self, vocab_size: int, known: int) -> Tensor:
        """[F] int64: mask, pad, bos and ids from ``known`` (the tokenizer's size) on; no end id."""
        named = {self.mask, self.pad, self.bos} - {None, *self.ends}
        beyond = set(range(known, vocab_size)) - {self.mask}
        return torch.tensor(sorted(named | beyond), dtype=torch.long)


def suppression(forbidden_ids: Tensor, vocab_size: int, device: torch.device) -> Tensor:
    """[V] float32 on ``device``, added to the logits: -inf at the forbidden ids, else 0."""
    suppress = torch.zeros(vocab_size)
    suppress[forbidden_ids] = -torch.inf
    return suppress.to(device)


@dataclass(frozen=True)
class StatedTokens:
    """The special tokens that a tokenizer's configuration states, without its vocabulary."""

    mask_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    added: Mapping[str, int]

    def get_added_vocab(self) -> Mapping[str, int]:
        return self.added

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.added[token]


def stated_tokens(checkpoint: Checkpoint) -> StatedTokens | None:
    """The special tokens by ``tokenizer_config.json``; None where it leaves an id to the vocabulary."""
    config = checkpoint.read_json("tokenizer_config.json")
    added = {
        token["content"]: int(i) for i, token in config.get("added_tokens_decoder", {}).items()
    }
    ids = {}
    for kind in ("mask", "bos", "eos", "pad"):
        token = config.get(f"{kind}_token")
        name = token["content"] if isinstance(token, dict) else token
        if name is not None and name not in added:
            return None
        ids[f"{kind}_token_id"] = added.get(name)
    return StatedTokens(**ids, added=added) if added else None


def special_ids(
    checkpoint: Checkpoint,
    tokenizer: PreTrainedTokenizerBase | StatedTokens,
    trust: Mapping[str, str] | None = None,
    **fixed: int | None,
) -> SpecialIds:
    """mask, bos, eos and pad from config.json, or from the tokenizer if config.json states none.

    ``trust`` gives some of them the other order ("tokenizer") or the tokenizer
    as the only source ("tokenizer only"). ``fixed`` are ids that the family
    states itself. Raises UserError if there is no mask id.
    """

    def find(kind: str) -> int | None:
        if kind in fixed:
            return fixed[kind]
        stated = [
            checkpoint.config.get(f"{kind}_token_id"),
            getattr(tokenizer, f"{kind}_token_id", None),
        ]
        trusted = (trust or {}).get(kind, "config")
        if trusted != "config":
            stated.reverse()
        if trusted == "tokenizer only":
            stated.pop()
        value = next((value for value in stated if value is not None), None)
        return value[0] if isinstance(value, list) else value

    mask, bos, eos, pad = (find(kind) for kind in ("mask", "bos", "eos", "pad"))
    if mask is None:
        raise UserError(
            f"{checkpoint.folder} names no mask token: config.json needs a mask_token_id, or the "
            "tokenizer a mask_token. A checkpoint without one is not a masked-diffusion model."
        )
    if pad is None:
        pad = eos if eos is not None else mask
    turns = [token for token in _END_OF_TURN if token in tokenizer.get_added_vocab()]
    ends = [eos, *(tokenizer.convert_tokens_to_ids(token) for token in turns)]
    return SpecialIds(mask, bos, eos, pad, tuple(dict.fromkeys(i for i in ends if i is not None)))


def load_tokenizer(
    checkpoint: Checkpoint,
    source: str | None = None,
    stock: type[PreTrainedTokenizerBase] | None = None,
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, or the one in the folder or hub repository ``source``.

    If the checkpoint has no ``tokenizer.json`` and its class is remote code,
    the class ``stock`` builds the tokenizer from the vocabulary files.
    """
    where = checkpoint if source is None else find_tokenizer(source)
    where.fetch_vocabulary()
    folder = where.folder
    files = {path.name for path in folder.iterdir()}
    if not files & {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"}:
        raise UserError(
            f"{folder} has no tokenizer.json and no vocabulary file: a teacher needs its tokenizer "
            "beside it, or teacher.tokenizer must name one."
        )
    own_code = "auto_map" in where.read_json("tokenizer_config.json")
    foreign = where.config.get("model_type") not in (None, *CONFIG_MAPPING_NAMES)
    try:
        if not own_code and not foreign:  # the stock class adds its special tokens
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if "tokenizer.json" in files or stock is None:
            return PreTrainedTokenizerFast.from_pretrained(folder)
        return stock.from_pretrained(folder)
    except Exception as error:  # a broken file raises any of a dozen types
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(f"Cannot load the tokenizer in {folder}: {reason}") from None
