"""A recipe's settings; ``recipes/`` has one file for each teacher, "tiny" the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from jointsampler.config.schema import PositiveInt, Section, Share

RECIPES = {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.yaml"))}


class Recipe(Section):
    text: str = Field("code", description="a name in texts/")
    # The model.
    vocab_size: PositiveInt = 2048
    hidden_size: PositiveInt = 192
    intermediate_size: PositiveInt = 512
    layers: PositiveInt = 10
    heads: PositiveInt = 6
    context: PositiveInt = 256
    # The batches.
    lengths: list[PositiveInt] = Field(
        [64, 33, 128, 64, 96, 33], description="tokens per row of text, one entry per step in turn"
    )
    task_lengths: list[PositiveInt] = Field(
        [20, 48, 28, 20, 42, 64], description="the same for rows of tasks"
    )
    batch_tokens: PositiveInt = 6144
    task_share: Share = Field(0.5, description="share of the tokens that are tasks")
    # The optimization.
    steps: PositiveInt = 4000
    warmup_steps: PositiveInt = 100
    cooldown: Share = Field(0.3, description="share of the steps over which lr falls to 0")
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    seed: int = 0
    # The machine.
    bf16: bool = True
    compile: bool = True
    device: Literal["auto", "cpu"] = "auto"
    threads: int = Field(0, ge=0, description="torch threads; 0 leaves torch's own number")
    log_every: PositiveInt = 50
    save_every: PositiveInt = 250
