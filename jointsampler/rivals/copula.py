"""Rounds in which the circuit corrects the full pass's marginals by the tokens revealed since.

For a position of the round's later reveals, with R the tokens revealed since the
full pass, the distribution is

    p_i(x | x_t) * q(x | x_t, R) / q(x | x_t)

where q(. | ...) is the circuit's own part of the normalised product of
``circuit.py``: exact sampling from that product, token by token in the order's
order, divided by what the circuit says before the round's first reveal. So a
round's first token is the teacher's own, as for all methods here. CoDD
(arXiv 2603.00045) multiplies by q alone, first token included, and switches it off
where most of the response is still masked, because it harms there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..sampler.estimator import Foresight
from ..teachers.protocol import Teacher
from ..updates import Opening, Reveal
from .circuit import Circuit

_FLOOR = 1e-30


class Copula:
    """The update of one circuit. It covers responses of any length, from the first position on."""

    name = "copula"
    passes = True
    ranks = estimates = False
    keeps = "nothing"
    k_max = None

    def __init__(self, circuit: Circuit):
        self.circuit = circuit

    def reading(self, teacher: Teacher) -> Teacher:
        return Corrected(teacher, self.circuit)

    def begin(
        self, teacher: Teacher, opening: Opening, attention_mask: Tensor | None
    ) -> CopulaRound:
        return CopulaRound(self.circuit, teacher, opening)


class Corrected:
    """A teacher whose head reads the circuit's messages behind the hidden states, if there are any."""

    def __init__(self, teacher: Teacher, circuit: Circuit):
        self._teacher = teacher
        self._emissions = circuit.emissions()  # [Z, V]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)

    def logits(self, states: Tensor) -> Tensor:
        """[..., H] or [..., H + 2 Z] -> [..., V]."""
        logits = self._teacher.logits(states)
        messages = states[..., self._teacher.hidden_size :]
        if not messages.shape[-1]:
            return logits
        now, before = ((m @ self._emissions).clamp_min(_FLOOR).log() for m in messages.chunk(2, -1))
        return logits + (now - before)


class CopulaRound:
    def __init__(self, circuit: Circuit, teacher: Teacher, opening: Opening):
        self.opening = self.states = opening.states
        self._circuit, self._teacher = circuit, teacher
        self._masked = opening.ids == teacher.mask_id  # [B, S], before the first reveal
        self._evidence: Tensor | None = None  # [B, L, Z]
        self._before: Tensor | None = None  # [B, L, Z], messages before the first reveal

    def advance(self, reveal: Reveal) -> None:
        circuit, start = self._circuit, reveal.start
        emissions = circuit.emissions()
        if self._evidence is None:
            probs = self._teacher.logits(self.opening[:, start:]).softmax(-1)
            masked = self._masked[:, start:]
            known = torch.where(masked, 0, reveal.ids[:, start:])
            self._evidence = circuit.evidence(probs, known, masked, emissions)
            self._before = circuit.messages(self._evidence)
        each = torch.arange(len(reveal.ids), device=reveal.ids.device)
        token = reveal.ids[each, reveal.position]
        self._evidence[each, reveal.position - start] = emissions.T[token]
        now = circuit.messages(self._evidence)
        prompt = now.new_zeros(len(now), start, 2 * now.shape[-1])
        messages = torch.cat([prompt, torch.cat([now, self._before], dim=-1)], dim=1)
        self.states = torch.cat([self.opening.float(), messages], dim=-1)
        return None

    def estimate(self, seen: Foresight) -> Tensor:
        raise UserError("A copula carries no estimate of its error: take another update.")
