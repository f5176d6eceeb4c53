"""The model, its tokenizer and its optimizers, built from the recipe."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel

from .recipe import Recipe
from .texts import get_text


def build_tokenizer(recipe: Recipe, texts: list[str], folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in ``folder``; built and saved there if it is missing."""
    if not (folder / "tokenizer.json").exists():
        get_text(recipe.text).tokenizer(recipe.vocab_size, texts).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        attn_implementation="sdpa",
    )
    config.is_causal = False  # attention in both directions makes the decoder a masked-diffusion LM
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config)


def build_optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices of the layers, AdamW for embeddings and norms."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n or "lm_head" in n]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def schedule(step: int, recipe: Recipe) -> float:
    """Factor on lr: warm-up, constant, then linear to 0 over the last ``cooldown`` of the steps."""
    cool_from = recipe.steps * (1 - recipe.cooldown)
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return min(1.0, max(0.0, (recipe.steps - step) / max(1.0, recipe.steps - cool_from)))


def device_of(recipe: Recipe) -> torch.device:
    gpu = recipe.device == "auto" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")
