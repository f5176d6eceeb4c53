"""A context-free hidden Markov model over the response, fitted beside the teacher's marginals.

The idea of CoDD (arXiv 2603.00045): a tractable model q of whole responses, which
sees no prompt, multiplies the product of the teacher's marginals,

    p(x | x_t) ~ q(x) * product over masked i of p_i(x_i | x_t),

and sums over all responses exactly, because the marginals enter a hidden Markov
model as soft evidence. Here q has ``latent`` states, one transition matrix and one
emission matrix, and is trained by gradient on the log-likelihood of masked tokens
under the normalised product, on states from ``states.py``. CoDD's has 1,024 states
and is compiled to a circuit; this one trains in a minute or two on one thread.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import rng
from ..teachers.protocol import Teacher
from .states import MaskedStates, shuffled

_FLOOR = 1e-30  # keeps logarithms finite


class Circuit(nn.Module):
    """Z latent states, V tokens."""

    def __init__(self, vocab_size: int, latent: int = 64, seed: int = 0):
        super().__init__()
        z, v = torch.arange(latent)[:, None], torch.arange(vocab_size)
        self.start = nn.Parameter(torch.zeros(latent))
        noise = rng.uniform(seed, z, torch.arange(latent), rng.RIVAL_WEIGHTS, 0)
        self.moves = nn.Parameter((noise - 0.5).float())  # [Z, Z], from row to column
        noise = rng.uniform(seed, z, v, rng.RIVAL_WEIGHTS, 1)
        self.emits = nn.Parameter((noise - 0.5).float())  # [Z, V]

    def emissions(self) -> Tensor:
        """[Z, V] probabilities."""
        return self.emits.softmax(-1)

    def evidence(self, probs: Tensor, tokens: Tensor, masked: Tensor, emissions: Tensor) -> Tensor:
        """[B, L, Z]: soft where masked [B, L], from probs [B, L, V]; else of the tokens [B, L]."""
        soft = probs @ emissions.T
        return torch.where(masked[..., None], soft, emissions.T[tokens])

    def log_sum(self, evidence: Tensor) -> Tensor:
        """[B]: the logarithm of the sum over all latent paths, of evidence [B, L, Z]."""
        moves, state = self.moves.softmax(-1), self.start.softmax(-1)
        total = torch.zeros(len(evidence), device=evidence.device)
        for position in range(evidence.shape[1]):
            joint = state * evidence[:, position]
            scale = joint.sum(-1, keepdim=True).clamp_min(_FLOOR)
            total = total + scale[:, 0].log()
            state = joint / scale @ moves
        return total

    @torch.no_grad()
    def messages(self, evidence: Tensor) -> Tensor:
        """[B, L, Z], each normalised: the latent state of a position given all other evidence."""
        moves, length = self.moves.softmax(-1), evidence.shape[1]
        ahead = [self.start.softmax(-1).expand_as(evidence[:, 0])]
        behind = [torch.ones_like(evidence[:, 0])]
        for position in range(length - 1):
            joint = ahead[-1] * evidence[:, position]
            ahead.append(joint / joint.sum(-1, keepdim=True).clamp_min(_FLOOR) @ moves)
            joint = (behind[-1] * evidence[:, length - 1 - position]) @ moves.T
            behind.append(joint / joint.sum(-1, keepdim=True).clamp_min(_FLOOR))
        found = torch.stack(ahead, dim=1) * torch.stack(behind[::-1], dim=1)
        return found / found.sum(-1, keepdim=True).clamp_min(_FLOOR)


def train_circuit(
    teacher: Teacher,
    states: MaskedStates,
    latent: int = 64,
    steps: int = 400,
    batch: int = 32,
    rate: float = 0.03,
    seed: int = 0,
) -> tuple[Circuit, list[float]]:
    """(a circuit for responses of the states' length, the loss of each step).

    The loss: nats per masked token of the normalised product, less those of the
    teacher's marginals alone. Below 0 the circuit adds something.
    """
    circuit = Circuit(teacher.vocab_size, latent, seed).to(teacher.device)
    optimizer = torch.optim.Adam(circuit.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for index in shuffled(len(states), batch, steps, seed):
        tokens, masked = states.tokens[index].clone(), states.masked[index].clone()
        with torch.no_grad():
            probs = teacher.logits(states.hidden[index].clone()).softmax(-1)
        emissions = circuit.emissions()
        soft = circuit.log_sum(circuit.evidence(probs, tokens, masked, emissions))
        hard = circuit.log_sum(emissions.T[tokens])
        loss = (soft - hard).sum() / masked.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return circuit.eval().requires_grad_(False), losses
