"""Saving the teacher: float16 weights, the tokenizer, the model card, the record of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from jointsampler import generate, load_teacher, storage
from jointsampler.tasks import TAUGHT, UNSEEN, examples

from .model import device_of
from .recipe import Recipe
from .texts import get_text

ACCURACY_PROMPTS = 100


def task_accuracy(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Share of correct answers, one token per pass at temperature 1, to prompts of another seed."""
    teacher = load_teacher(str(folder), device=str(device_of(recipe)), dtype="float32")
    result = {}
    for name, task in sorted(TAUGHT.items()):
        prompts = [
            example.prompt for example in examples(task, recipe.seed + UNSEEN, ACCURACY_PROMPTS)
        ]
        answers = generate(
            teacher, prompts=prompts, method="sequential", k=1, max_new_tokens=32, stop_at_end=True
        )
        right = sum(task.check(p, text) for p, text in zip(prompts, answers.texts, strict=True))
        result[name] = right / len(prompts)
    return result


def model_card(
    recipe: Recipe, log: list[dict[str, Any]], accuracy: dict[str, float], parameters: int
) -> str:
    held_out = log[-1]["held_out"]
    cells = " | ".join(f"{value:.3f}" for value in held_out.values())
    return f"""---
license: apache-2.0
tags: [masked-diffusion]
---
# A tiny teacher, trained on the text "{recipe.text}"

A masked-diffusion language model of {parameters / 1e6:.1f} M parameters: a stock Llama shape
({recipe.layers} layers of {recipe.hidden_size}, `config.is_causal = false`), its own tokenizer of
{recipe.vocab_size} ids, trained by `python -m workflows.tiny_teacher` for {log[-1]["step"]:,} steps of about
{recipe.batch_tokens:,} tokens. It exists to show and test joint sampling on a laptop; it is no assistant.

{get_text(recipe.text).card()}
- **Tasks**: {recipe.task_share:.0%} of the tokens are procedurally generated prompted tasks ({", ".join(accuracy) or "none"}).
- **Objective**: cross-entropy at masked positions weighted by 1/t, t uniform; rows of {recipe.lengths} tokens of text and
  {recipe.task_lengths} of tasks, the mean taken over tokens up to the first eos; Muon + AdamW, learning rate {recipe.lr}, linear cool-down over the last {recipe.cooldown:.0%}.

Held-out nats per masked token, by mask ratio (96 windows of 96 tokens):

| {" | ".join(held_out)} |
|{"---|" * len(held_out)}
| {cells} |
{accuracy_table(accuracy)}"""


def accuracy_table(accuracy: dict[str, float]) -> str:
    if not accuracy:
        return ""
    return f"""
Correct answers to prompted tasks, sequential sampling at temperature 1, {ACCURACY_PROMPTS} new prompts each:

| {" | ".join(accuracy)} |
|{"---|" * len(accuracy)}
| {" | ".join(f"{share:.0%}" for share in accuracy.values())} |
"""


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    log: list[dict[str, Any]],
    folder: Path,
) -> None:
    """Weights in float16, which rounds weights of this size more finely than bfloat16 does."""
    parameters = sum(p.numel() for p in model.parameters())
    model.cpu().to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    accuracy = task_accuracy(folder, recipe) if recipe.task_share else {}
    record = {"config": recipe.model_dump(), "log": log, "task_accuracy": accuracy}
    card = model_card(recipe, log, accuracy, parameters)
    storage.write(folder / "README.md", card.encode())
    storage.write(folder / "pretraining.json", (json.dumps(record, indent=1) + "\n").encode())
    print(f"tiny_teacher: wrote {folder}", flush=True)
