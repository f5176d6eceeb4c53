"""Tiny random checkpoints of stock ``*ForMaskedLM`` classes, saved by the classes themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.support.checkpoints import byte_level

# What differs from a BERT of 2 layers of 32, per kind.
KINDS: dict[str, dict] = {
    "bert": {},
    "roberta": {},
    "albert": {"embedding_size": 16, "num_hidden_layers": 3},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 48},
    # One layer in three attends globally, the others within a window of 3 on both sides.
    "modernbert": {
        "num_hidden_layers": 4,
        "local_attention": 6,
        "sep_token_id": 3,
        "cls_token_id": 2,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "esm": {"position_embedding_type": "rotary", "token_dropout": True},
    "esm-absolute": {"position_embedding_type": "absolute", "token_dropout": True},
}
# Kinds whose classes compute attention without transformers' attention interface.
CLOSED: dict[str, dict] = {
    "mpnet": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
}


def write(folder: Path, kind: str, seed: int = 0) -> PreTrainedModel:
    """The model whose weights, configuration and tokenizer are in ``folder``."""
    tokenizer = byte_level(["<s>", "</s>", "<pad>", "<mask>"])
    size = tokenizer.get_vocab_size()
    settings = {
        "vocab_size": size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "pad_token_id": tokenizer.token_to_id("<pad>"),
        "max_position_embeddings": size + 64,  # RoBERTa's line counts from the padding id
    } | {**KINDS, **CLOSED}[kind]
    kind = kind.removesuffix("-absolute")
    if kind == "distilbert":
        del settings["hidden_size"]
    if kind == "esm":
        settings["mask_token_id"] = tokenizer.token_to_id("<mask>")
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForMaskedLM.from_config(config).eval()
    for parameter in model.parameters():  # the classes' own draws are too small to tell errors by
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
    ).save_pretrained(folder)
    return model
