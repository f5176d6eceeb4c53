"""Training sequences for the embedded teacher: code windows and prompted tasks.

Batch ``step`` is a pure function of (seed, step), so a resumed run gets the
same batches. Models and losses are left to other files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jointsampler.tasks import TAUGHT


@dataclass(frozen=True)
class Batch:
    ids: Tensor  # [B, S] int64, clean tokens
    maskable: Tensor  # [B, S] bool, False on bos and on prompts
    t: Tensor  # [B] float32 in (0, 1), the mask ratio of each row
    counted: int  # maskable tokens up to each row's first eos; the loss is a mean over them

    def to(self, device: torch.device) -> Batch:
        return Batch(self.ids.to(device), self.maskable.to(device), self.t.to(device), self.counted)


class SequenceSource:
    """Draws rows of ``bos + tokens`` from encoded files and from the tasks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: list[str], seed: int):
        self.tokenizer, self.seed = tokenizer, seed
        newline = tokenizer.encode("\n", add_special_tokens=False)[0]
        self.files = [
            np.asarray(tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)
            for text in texts
        ]
        # A window starts at a line's first token.
        self.starts = [
            np.concatenate([[0], np.flatnonzero(ids == newline) + 1]) for ids in self.files
        ]
        self.cumulative = np.cumsum([len(ids) for ids in self.files])

    def _code_row(self, rng: random.Random, length: int) -> tuple[list[int], int]:
        which = int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], "right"))
        starts = self.starts[which]
        start = int(starts[rng.randrange(len(starts))])
        window = self.files[which][start : start + length - 1].tolist()
        # Half of the rows are unconditional, half continue a prefix.
        prefix = 0 if rng.random() < 0.5 else rng.randrange(0, max(1, length // 2))
        return window, prefix

    def _task_row(self, rng: random.Random, length: int) -> tuple[list[int], int]:
        while True:  # until a task fits, which most tasks do at every length in use
            example = TAUGHT[rng.choice(sorted(TAUGHT))].example(rng)
            prompt = self.tokenizer.encode(example.prompt, add_special_tokens=False)
            answer = self.tokenizer.encode(example.answer, add_special_tokens=False)
            if len(prompt) + len(answer) + 2 <= length:  # bos before, an eos behind
                return prompt + answer, len(prompt)

    def batch(self, step: int, tokens: int, length: int, tasks: bool) -> Batch:
        """About ``tokens`` tokens of code or of tasks; rows that end early fill with eos."""
        rng = random.Random(f"{self.seed}/{step}/{tasks}")
        rows = max(1, tokens // length)
        ids = np.full((rows, length), self.tokenizer.eos_token_id, dtype=np.int64)
        maskable = np.ones((rows, length), dtype=bool)
        counted = 0
        for row in range(rows):
            body, prefix = (self._task_row if tasks else self._code_row)(rng, length)
            ids[row, 0] = self.tokenizer.bos_token_id
            ids[row, 1 : 1 + len(body)] = body[: length - 1]
            maskable[row, : 1 + prefix] = False
            counted += max(0, min(len(body) + 1, length - 1) - prefix)
        # Stratified mask ratios: one per stratum of (0, 1], so that every batch covers the interval.
        offset = rng.random()
        t = (np.arange(rows) + offset) / rows
        rng.shuffle(t)
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(maskable),
            torch.from_numpy(np.clip(t, 1e-3, 1.0)).float(),
            counted,
        )

    def step(
        self,
        step: int,
        tokens: int,
        lengths: list[int],
        task_lengths: list[int],
        task_share: float,
    ) -> list[tuple[float, Batch]]:
        """The (weight, batch) pairs of one optimizer step: code, and tasks in rows of their size."""
        parts = [
            (1 - task_share, lengths[step % len(lengths)], False),
            (task_share, task_lengths[step % len(task_lengths)], True),
        ]
        return [
            (share, self.batch(step, round(share * tokens), length, tasks))
            for share, length, tasks in parts
            if share > 0
        ]
