"""The parts of a tiny checkpoint: a byte-level tokenizer, JSON files, random tensors in safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = [
    "def main(args):\n    return args.value + 1\n",
    "the quick brown fox",
    "print('hello')\n",
] * 5
Weights = dict[str, np.ndarray]


def byte_level(specials: list[str], size: int = 300) -> Tokenizer:
    """A byte-level BPE whose special tokens come last, as in Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2))


class Maker:
    """Draws tensors and writes them, in one file or in shards with an index."""

    def __init__(self, folder: Path, seed: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.generator = folder, torch.Generator().manual_seed(seed)
        self.tensors: dict[str, torch.Tensor] = {}

    def matrix(self, name: str, *shape: int) -> None:
        draw = torch.randn(shape, generator=self.generator)
        self.tensors[name] = draw * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)

    def norm(self, name: str, size: int) -> None:
        self.tensors[name] = 1 + 0.2 * torch.randn(size, generator=self.generator)

    def write(self, shards: int = 1) -> Weights:
        names = list(self.tensors)
        if shards == 1:
            save_file(self.tensors, self.folder / "model.safetensors", metadata={"format": "pt"})
        else:
            parts = [names[at::shards] for at in range(shards)]
            where = {}
            for at, part in enumerate(parts, 1):
                file = f"model-{at:05d}-of-{shards:05d}.safetensors"
                chosen = {name: self.tensors[name] for name in part}
                save_file(chosen, self.folder / file, metadata={"format": "pt"})
                where |= dict.fromkeys(part, file)
            size = sum(t.numel() * t.element_size() for t in self.tensors.values())
            index = {"metadata": {"total_size": size}, "weight_map": where}
            write_json(self.folder / "model.safetensors.index.json", index)
        return {name: tensor.double().numpy() for name, tensor in self.tensors.items()}


WIDTH, HEADS, KV, MLP, LAYERS = 32, 4, 2, 48, 2
HEAD = WIDTH // HEADS
