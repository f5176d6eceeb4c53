"""Masked states with the teacher's answer, from which the trained rivals learn.

Task prompts with a correct answer, padded to the response length with end tokens,
of which a random share is masked: the distribution that a masked-diffusion teacher
is itself trained on. The teacher sees each state once, and its hidden states are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..decoding.canvas import left_pad
from ..tasks import TASKS, TAUGHT, examples
from ..teachers.protocol import Teacher

_BATCH = 64


@dataclass(frozen=True)
class MaskedStates:
    """N states of a response of L positions after prompts of up to P tokens."""

    ids: Tensor  # [N, P + L] int64, masked
    attention_mask: Tensor  # [N, P + L] bool
    tokens: Tensor  # [N, L] int64, what stands where a response is masked too
    masked: Tensor  # [N, L] bool
    hidden: Tensor  # [N, L, H], the teacher's states

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        return self.tokens.shape[1]


@torch.inference_mode()
def masked_states(
    teacher: Teacher, count: int, length: int, seed: int, tasks: Sequence[str] = tuple(TAUGHT)
) -> MaskedStates:
    """About ``count`` states, the same number of each task; one full pass each."""
    asked = [e for name in tasks for e in examples(TASKS[name], seed, -(-count // len(tasks)))]
    bos = [] if teacher.bos_id is None else [teacher.bos_id]

    def encode(text: str) -> list[int]:
        return teacher.tokenizer.encode(text, add_special_tokens=False)

    prompts, real = left_pad([bos + encode(e.prompt) for e in asked], teacher.pad_id)
    filler = teacher.pad_id if teacher.eos_id is None else teacher.eos_id
    answers = [(encode(e.answer) + [filler] * length)[:length] for e in asked]
    tokens = torch.tensor(answers)
    rows = torch.arange(len(asked))
    share = rng.uniform(seed, rows, rng.RIVAL_SHARE)
    draws = rng.uniform(seed, rows[:, None], torch.arange(length), rng.RIVAL_MASK)
    # At least one position is masked: the one with the smallest draw.
    masked = (draws < share[:, None]) | (draws == draws.amin(1, keepdim=True))
    ids = torch.cat([prompts, tokens.masked_fill(masked, teacher.mask_id)], dim=1)
    mask = torch.cat([real, torch.ones_like(masked)], dim=1)
    ids, mask = ids.to(teacher.device), mask.to(teacher.device)
    hidden = [
        teacher.hidden(part, shown)[:, -length:, : teacher.hidden_size]
        for part, shown in zip(ids.split(_BATCH), mask.split(_BATCH), strict=True)
    ]
    device = teacher.device
    return MaskedStates(ids, mask, tokens.to(device), masked.to(device), torch.cat(hidden))


def shuffled(count: int, batch: int, steps: int, seed: int) -> Tensor:
    """[steps, batch] int64: which of ``count`` states each training step reads, epoch by epoch."""
    epochs = -(-steps * batch // count)
    rows = torch.arange(count)
    orders = [rng.uniform(seed, rows, epoch, rng.RIVAL_BATCH).argsort() for epoch in range(epochs)]
    return torch.cat(orders)[: steps * batch].view(steps, batch)
