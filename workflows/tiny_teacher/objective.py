"""The masked-diffusion objective: cross-entropy at masked positions, weighted by 1/t.

Its expectation bounds the negative log-likelihood (Sahoo et al. 2024,
arXiv 2406.07524, eq. 11; Nie et al. 2025, arXiv 2502.09992, eq. 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import Batch


def corrupt(batch: Batch, mask_id: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(noisy ids [B, S], masked [B, S] bool): each maskable token masked with probability t."""
    # Drawn on the CPU, so that every device sees the same masks.
    draws = torch.rand(batch.ids.shape, generator=generator).to(batch.ids.device)
    masked = (draws < batch.t[:, None]) & batch.maskable
    return torch.where(masked, mask_id, batch.ids), masked


def masked_loss(
    model: nn.Module, batch: Batch, mask_id: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(weighted loss in nats per counted token, plain nats per masked token), both scalars."""
    noisy, masked = corrupt(batch, mask_id, generator)
    hidden = model.model(input_ids=noisy, use_cache=False).last_hidden_state
    rows, _ = masked.nonzero(as_tuple=True)
    logits = model.lm_head(hidden[masked])  # masked positions alone
    nats = F.cross_entropy(logits.float(), batch.ids[masked], reduction="none")
    weighted = (nats / batch.t[rows]).sum() / batch.counted
    return weighted, nats.mean().detach()
