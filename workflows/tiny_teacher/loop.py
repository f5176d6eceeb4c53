"""The training loop: one process, checkpoints that a second start goes on from.

``steps`` may change between two starts; the learning rate's cool-down moves with it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from .batches import Batch, SequenceSource
from .model import build_optimizers, device_of, schedule
from .objective import masked_loss
from .recipe import Recipe

CHECKPOINT = "checkpoint.pt"


class Training:
    """Model, optimizers, step and log of one training."""

    def __init__(self, model: PreTrainedModel, source: SequenceSource, recipe: Recipe):
        self.model, self.source, self.recipe = model, source, recipe
        self.device = device_of(recipe)
        model.to(self.device).train()
        self.runner = nn.Module()  # the compiled body and the head, which masked_loss calls
        self.runner.model = torch.compile(model.model) if recipe.compile else model.model
        self.runner.lm_head = model.lm_head
        self.optimizers = build_optimizers(model, recipe)
        self.step = 0
        self.log: list[dict[str, Any]] = []

    def make_step(self) -> tuple[list[float], int]:
        """One optimizer step; (loss of each part: text, tasks; tokens seen)."""
        recipe, step = self.recipe, self.step
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        losses, tokens = [], 0
        for weight, batch in self.source.step(
            step, recipe.batch_tokens, recipe.lengths, recipe.task_lengths, recipe.task_share
        ):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
                mask_id = self.model.config.mask_token_id
                loss, _ = masked_loss(self.runner, batch.to(self.device), mask_id, generator)
            (weight * loss).backward()
            losses.append(loss.item())
            tokens += batch.ids.numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * schedule(step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses, tokens

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "log": self.log,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.log = state["step"], state["log"]


@torch.no_grad()
def held_out_loss(
    model: PreTrainedModel, source: SequenceSource, recipe: Recipe, device: torch.device
) -> dict[str, float]:
    """Nats per masked token on held-out texts, by mask ratio, 96 rows of 96 tokens each."""
    model.eval()
    batch = source.batch(0, tokens=96 * 96, length=96, tasks=False)
    unconditional = torch.ones_like(batch.maskable)
    unconditional[:, 0] = False
    result = {}
    for ratio in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full_like(batch.t, ratio)
        fixed = Batch(batch.ids, unconditional, t, batch.counted).to(device)
        generator = torch.Generator().manual_seed(recipe.seed)
        _, nats = masked_loss(model, fixed, model.config.mask_token_id, generator)
        result[f"{ratio:.1f}"] = round(nats.item(), 4)
    model.train()
    return result


def mean_losses(recent: list[list[float]]) -> str:
    """One mean per part of the step: text, tasks."""
    return " ".join(f"{sum(part) / len(part):.3f}" for part in zip(*recent, strict=True))


def train(
    model: PreTrainedModel,
    source: SequenceSource,
    held_out: SequenceSource,
    recipe: Recipe,
    out: Path,
) -> list[dict[str, Any]]:
    """Train ``model`` in place to ``recipe.steps``; the held-out losses at each checkpoint."""
    training = Training(model, source, recipe)
    if (out / CHECKPOINT).exists():
        training.load(out / CHECKPOINT)
        print(f"tiny_teacher: going on from step {training.step}", flush=True)
    since, tokens, recent = time.monotonic(), 0, []
    while training.step < recipe.steps:
        losses, seen = training.make_step()
        recent.append(losses)
        tokens += seen
        done = training.step
        if done % recipe.log_every == 0:
            rate = tokens / (time.monotonic() - since)
            left = (recipe.steps - done) * tokens / len(recent) / rate
            print(
                f"tiny_teacher: step {done}/{recipe.steps} loss {mean_losses(recent)} "
                f"{rate:,.0f} tokens/s, {left / 60:.0f} min left",
                flush=True,
            )
            since, tokens, recent = time.monotonic(), 0, []
        if done % recipe.save_every == 0 or done == recipe.steps:
            losses_now = held_out_loss(model, held_out, recipe, training.device)
            training.log.append({"step": done, "held_out": losses_now})
            print(
                f"tiny_teacher: step {done} held out by mask ratio {training.log[-1]['held_out']}",
                flush=True,
            )
            training.save(out / CHECKPOINT)
    return training.log
