"""The published recipe written plainly, for comparison with the decoding loop.

Masked-diffusion decoding as LLaDA describes it (arXiv 2502.09992) with ADJUST's
sampler (2509.22738): k passes per round, the teacher's first and the sampler's after
it; after each pass the LM head and the softmax at all positions and a draw at all of
them, of which one is kept. It is this project's own code, not the authors' program,
and it draws the same random numbers as the decoding loop, so the tokens can be
compared.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from .. import rng
from ..decoding.generate import synchronize
from ..decoding.sampling import draw
from ..divergence import entropy
from ..sampler import JointSampler
from ..teachers.protocol import Teacher


@torch.inference_mode()
def reference(
    teacher: Teacher,
    sampler: JointSampler | None,
    batch: int,
    length: int,
    k: int,
    seed: int = 0,
) -> Tensor:
    """[B, L] int64: responses without a prompt, lowest entropy first.

    ``sampler``: of depth 0; with None all tokens of a round come from its full pass.
    """
    opening = [] if teacher.bos_id is None else [teacher.bos_id]
    start = len(opening)
    ids = torch.tensor([opening + [teacher.mask_id] * length] * batch, device=teacher.device)
    masked = torch.ones_like(ids, dtype=torch.bool)
    masked[:, :start] = False
    each = torch.arange(batch, device=ids.device)
    places = torch.arange(ids.shape[1], device=ids.device) - start
    for done in range(0, length, k):
        states = teacher.hidden(ids)
        for reveal in range(min(k, length - done)):
            if reveal and sampler is not None:
                states = sampler(teacher.embed(ids), states)
            logits = teacher.logits(states)  # [B, S, V]
            probs = torch.softmax(logits, dim=-1)
            uniform = rng.uniform(seed, each[:, None], places[None], rng.TOKEN)
            tokens = torch.where(masked, draw(probs, uniform), ids)
            position = entropy(logits).masked_fill(~masked, torch.inf).argmin(dim=1)
            ids[each, position] = tokens[each, position]
            masked[each, position] = False
    return ids[:, start:]


def reference_seconds(
    teacher: Teacher, sampler: JointSampler | None, batch: int, length: int, k: int
) -> float:
    """Wall clock of :func:`reference`, device synchronised."""
    synchronize(teacher.device)
    begin = time.perf_counter()
    reference(teacher, sampler, batch, length, k)
    synchronize(teacher.device)
    return time.perf_counter() - begin
