"""A lower bound of the log-likelihood of a given response, by Monte Carlo.

For a response r of L tokens after a prompt p (LLaDA, arXiv 2502.09992, section 2.4):

    log p(r | p) >= E[ L / l * sum over masked i of log p(r_i | p, r with l tokens masked) ]

where l is uniform on 1 ... L, and the l masked positions are a uniform subset. The
mean over draws estimates the right side without bias. The counts l are stratified:
draw s of n takes the s-th of n equal parts of the uniform distribution, which keeps
the mean and lowers the variance. The bound is a property of the teacher; no
decoding method enters it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import rng
from ..decoding.canvas import left_pad
from ..errors import UserError
from ..teachers.protocol import Teacher

# Logits held at once: 64 Mi floats, 256 MiB.
_LOGITS = 1 << 26


def masks(length: int, row: int, draws: int, seed: int = 0) -> Tensor:
    """[draws, length] bool: the masked positions of each draw for the response of ``row``."""
    draw = torch.arange(draws)
    part = (draw + rng.uniform(seed, draw, row, rng.BOUND_COUNT)) / draws  # stratified on (0, 1)
    count = 1 + (part * length).long().clamp_max(length - 1)
    keys = rng.uniform(seed, draw[:, None], torch.arange(length)[None], row, rng.BOUND_MASK)
    return keys.argsort(dim=1).argsort(dim=1) < count[:, None]


@torch.inference_mode()
def likelihood_bound(
    teacher: Teacher,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    rows: Sequence[int],
    draws: int = 128,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """[N] float64 nats: an unbiased estimate of the bound for each prompt and response (token ids).

    The masks depend on (seed, row id, L) alone; responses with equal row ids and
    lengths share them, so their difference has less variance. A response of one
    token takes one draw, which is exact. An empty one has log-likelihood 0.

    Raises UserError: draws < 1, or prompt and response longer than the teacher's context.
    """
    if draws < 1:
        raise UserError(f"A likelihood needs at least 1 draw of masks, not {draws}.")
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if len(prompt) + len(response) > teacher.max_length:
            raise UserError(
                f"Prompt and response {index} have {len(prompt) + len(response)} tokens, more than the "
                f"context of teacher {teacher.name!r} ({teacher.max_length}): shorten them."
            )
    total = torch.zeros(len(prompts), dtype=torch.float64)
    made = [
        masks(len(r), row, 1 if len(r) == 1 else draws, seed)
        for r, row in zip(responses, rows, strict=True)
    ]
    jobs = [(n, s) for n, mask in enumerate(made) for s in range(len(mask)) if len(responses[n])]
    # Sequences of like length share a batch, because padding costs as much as text.
    jobs.sort(key=lambda job: len(prompts[job[0]]) + len(responses[job[0]]))
    for begin in range(0, len(jobs), batch_size):
        part = jobs[begin : begin + batch_size]
        texts = [[*prompts[n], *responses[n]] for n, _ in part]
        nats = _masked_nats(teacher, texts, [made[n][s] for n, s in part])
        for (n, s), value in zip(part, nats.tolist(), strict=True):
            mask = made[n][s]
            total[n] += value * len(mask) / int(mask.sum()) / len(made[n])
    return total


def _masked_nats(
    teacher: Teacher, texts: Sequence[Sequence[int]], masked: Sequence[Tensor]
) -> Tensor:
    """[B] float64: the log-probabilities of the masked tokens, summed, from one full pass.

    ``masked`` [L] bool of each text covers its last L tokens.
    """
    ids, real = left_pad(texts, teacher.pad_id)
    hole = torch.zeros_like(real)
    for row, mask in enumerate(masked):
        hole[row, -len(mask) :] = mask
    ids, hole = ids.to(teacher.device), hole.to(teacher.device)
    attention = None if bool(real.all()) else real.to(teacher.device)
    states = teacher.hidden(ids.masked_fill(hole, teacher.mask_id), attention)
    nats = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    step = max(1, _LOGITS // teacher.vocab_size)
    where = hole.nonzero()  # [M, 2]
    for at, token in zip(where.split(step), ids[hole].split(step), strict=True):
        log_probs = teacher.logits(states[at[:, 0], at[:, 1]]).log_softmax(-1)
        nats.index_add_(0, at[:, 0], log_probs.gather(1, token[:, None])[:, 0].double())
    return nats.cpu()
