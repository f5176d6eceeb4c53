"""The public call: prompts in, samples out, with an account of their cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..memory import BatchSize, in_batches
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..updates import Update
from .cache import CacheKind, check_cache
from .canvas import Canvas, left_pad
from .loop import Decoder
from .methods import Method, get_method
from .orders import get_order
from .prompts import Prompt, encode_prompts
from .sampling import Sampling
from .stops import StopRule
from .strategy import Strategy


@dataclass(frozen=True)
class Generation:
    """N samples of a response of L positions after prompts of up to P tokens."""

    sequences: Tensor  # [N, P + L] int64, prompts padded on the left
    attention_mask: Tensor  # [N, P + L] bool, False on the padding
    texts: list[str]  # responses up to their end (eos, or end of turn)
    prompts: list[list[int]]  # token ids, bos included, without padding
    rows: Tensor  # [N] int64, the row ids that seeded the samples
    order: Tensor  # [N, L] int64, response position of row n's r-th reveal; -1 past an early end
    round: Tensor  # [N, L] int64, the round (from 0) of that reveal
    teacher_passes: Tensor  # [N] int64; a verification is one, however many prefixes it holds
    teacher_rows: Tensor  # [N] int64, sequences through the teacher: every prefix counts
    update_passes: Tensor  # [N] int64
    round_ends: Tensor  # [N, 3] int64: verified rounds that ended full, by order, by rejection
    effective_tokens: Tensor  # [N] int64, response tokens before the end
    seconds: float  # wall clock of the decoding, device synchronised
    method: str
    update: Update  # that followed each reveal
    rule: StopRule  # that ended each round
    step: StopRule | None  # that ended the reveals before each update; None: one reveal each

    @property
    def responses(self) -> Tensor:
        """[N, L] int64, all tokens of the responses."""
        return self.sequences[:, self.sequences.shape[1] - self.order.shape[1] :]


def check_length(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")


def check_rows(
    prompts: Sequence[Prompt] | None, num_samples: int, batch_size: int | BatchSize
) -> None:
    if num_samples < 1 or (isinstance(batch_size, int) and batch_size < 1):
        raise UserError(
            f"num_samples and batch_size must be at least 1, not {num_samples} and {batch_size}."
        )
    if prompts is not None and not len(prompts):
        raise UserError("prompts is empty: give at least one, or None for unconditional samples.")


def check_ends(teacher: Teacher, stop_at_end: bool) -> None:
    if stop_at_end and not teacher.end_ids:
        raise UserError(f"Teacher {teacher.name!r} has no end token to stop at.")


def check_k(k: int, max_new_tokens: int) -> None:
    check_length(max_new_tokens)
    if not 1 <= k <= max_new_tokens:
        raise UserError(
            f"k must lie between 1 and the response length max_new_tokens={max_new_tokens}, not {k}."
        )


def check_blocks(block_length: int | None, max_new_tokens: int) -> None:
    if block_length is None:
        return
    if block_length < 1 or max_new_tokens % block_length:
        raise UserError(
            f"block_length={block_length} does not divide the response length "
            f"max_new_tokens={max_new_tokens}."
        )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def end_positions(responses: Tensor, end_ids: Sequence[int]) -> Tensor:
    """[N] int64: the first end token of each response [N, L], L where it has none."""
    ends = torch.full((len(responses),), responses.shape[1], device=responses.device)
    wanted = torch.tensor(list(end_ids), dtype=responses.dtype, device=responses.device)
    is_end = torch.isin(responses, wanted)
    return torch.where(is_end.any(1), is_end.int().argmax(1), ends)


def generate(
    teacher: Teacher,
    update: Update | JointSampler | None = None,
    prompts: Sequence[Prompt] | None = None,
    method: str = "joint",
    k: int = 4,
    num_samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    order: str = "entropy",
    seed: int = 0,
    batch_size: int | BatchSize = 64,
    row_ids: Sequence[int] | None = None,
    on_reveal: Callable[[Canvas], None] | None = None,
    block_length: int | None = None,
    cache: CacheKind = "none",
    stop_at_end: bool = False,
    **rule_settings: float,
) -> Generation:
    """Sample ``num_samples`` responses per prompt; without prompts, that many unconditional ones.

    Row n's sample depends on (seed, its row id, its prompt) and the decoding
    settings only, never on the batch it is in. Row ids count from 0 unless given.

    ``update``: a JointSampler, a Refresh, or None; "sequential" and "marginal" use
    none, "refresh" makes its own unless given one. ``k`` is for the methods with a
    fixed number of tokens per full pass; the others take the settings of their
    stop rule: ``budget``, ``threshold``, ``factor``, ``bound``. ``step_bound``, in nats,
    lets reveals share an update (``step.py``); 0: each has its own. ``block_length``
    finishes the response in blocks from the left, ``cache`` ("prefix",
    "block_causal") keeps the keys and values of finished blocks. ``stop_at_end``
    makes no pass for positions behind a row's first end token; its text is the
    same. ``on_reveal`` is called with the live canvas after every reveal.
    ``batch_size``: rows at a time, or a BatchSize, which finds what fits into memory.

    Raises UserError: unknown method or order, k < 1 or larger than the response,
    a method that needs an update without one, an update that does not fit the
    teacher, a prompt too long, settings out of range, a block length that does not
    divide the response, a cache that the teacher, the method or the update
    excludes.
    """
    chosen = get_method(method)
    strategy = _strategy(
        chosen, update, k, max_new_tokens, order, Sampling(temperature, top_p), seed, rule_settings
    )
    encoded, rows = _rows(teacher, prompts, num_samples, max_new_tokens, batch_size, row_ids)
    return decode(
        teacher, strategy, encoded, rows, max_new_tokens, batch_size, method=method,
        on_reveal=on_reveal, block_length=block_length, cache=cache, stop_at_end=stop_at_end,
    )  # fmt: skip


def decode(
    teacher: Teacher,
    strategy: Strategy,
    prompts: list[list[int]],
    rows: Tensor,
    max_new_tokens: int,
    batch_size: int | BatchSize = 64,
    *,
    method: str,
    on_reveal: Callable[[Canvas], None] | None = None,
    block_length: int | None = None,
    cache: CacheKind = "none",
    stop_at_end: bool = False,
) -> Generation:
    """:func:`generate` with a strategy in place of the name of one.

    prompts: N lists of token ids; rows: [N] int64 row ids; ``method`` names the result.
    """
    check_blocks(block_length, max_new_tokens)
    verified = strategy.verification is not None
    check_cache(teacher, cache, block_length, verified, strategy.update)
    check_ends(teacher, stop_at_end)
    teacher = strategy.update.reading(teacher)
    # Prompts of like length share a batch, because padding costs as much as text.
    by_length = torch.tensor([len(ids) for ids in prompts]).argsort(stable=True)

    def decoded(part: range) -> tuple[Canvas, float]:
        """The samples ``part`` by length, and the seconds of their decoding."""
        members = by_length[part.start : part.stop]
        synchronize(teacher.device)
        begin = time.perf_counter()
        prompts_here = [prompts[i] for i in members.tolist()]
        canvas = Canvas(teacher, prompts_here, rows[members], max_new_tokens)
        decoder = Decoder(teacher, strategy, canvas, after=on_reveal)
        decoder.run(block_length, cache, stop_at_end)
        synchronize(teacher.device)
        return canvas, time.perf_counter() - begin

    done = in_batches(batch_size, len(prompts), decoded)
    canvases, seconds = [canvas for canvas, _ in done], sum(took for _, took in done)
    made = dict(
        method=method, update=strategy.update, rule=strategy.rule, step=strategy.step,
        seconds=seconds,
    )  # fmt: skip
    return _collect(teacher, canvases, by_length.argsort(), prompts, rows, made)


def _strategy(
    method: Method,
    update: Update | JointSampler | None,
    k: int,
    max_new_tokens: int,
    order: str,
    sampling: Sampling,
    seed: int,
    rule_settings: dict[str, float],
) -> Strategy:
    """The checked combination that a call names."""
    policy, chosen = get_order(order), method.chosen_update(update)
    check_length(max_new_tokens)
    if method.has_k:
        check_k(k, max_new_tokens)
    return method.strategy(chosen, k, max_new_tokens, rule_settings, policy, sampling, seed)


def _rows(
    teacher: Teacher,
    prompts: Sequence[Prompt] | None,
    num_samples: int,
    max_new_tokens: int,
    batch_size: int | BatchSize,
    row_ids: Sequence[int] | None,
) -> tuple[list[list[int]], Tensor]:
    """(prompt ids of every sample, row ids [N])."""
    check_rows(prompts, num_samples, batch_size)
    encoded = encode_prompts(teacher, prompts, max_new_tokens)
    encoded = [ids for ids in encoded for _ in range(num_samples)]
    rows = torch.arange(len(encoded)) if row_ids is None else torch.as_tensor(row_ids).long()
    if len(rows) != len(encoded):
        raise UserError(f"{len(rows)} row_ids for {len(encoded)} samples: give one per sample.")
    return encoded, rows


def _collect(
    teacher: Teacher,
    canvases: list[Canvas],
    places: Tensor,
    prompts: list[list[int]],
    rows: Tensor,
    made: dict[str, Any],
) -> Generation:
    """``places`` [N] int64: where in the canvases, one after the other, each sample is.

    ``made``: the fields of the result that tell how the samples were made.
    """

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(canvas, name) for canvas in canvases]).cpu()[places]

    responses = torch.cat([canvas.response(canvas.ids) for canvas in canvases]).cpu()[places]
    ends = end_positions(responses, teacher.end_ids)
    texts = [""] * len(responses)
    if teacher.tokenizer is not None:
        texts = [
            teacher.tokenizer.decode(ids[:end])
            for ids, end in zip(responses.tolist(), ends.tolist(), strict=True)
        ]
    ids, real = left_pad(prompts, teacher.pad_id)
    names = ("order", "round", "teacher_passes", "teacher_rows", "update_passes", "round_ends")
    return Generation(
        sequences=torch.cat([ids, responses], dim=1),
        attention_mask=torch.cat([real, torch.ones_like(responses, dtype=torch.bool)], dim=1),
        texts=texts,
        prompts=prompts,
        rows=rows,
        effective_tokens=ends,
        **made,
        **{name: joined(name) for name in names},
    )
