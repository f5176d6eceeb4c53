"""The public call: prompts in, samples out, with an account of what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..sampler.model import JointSampler
from ..teachers.protocol import Teacher
from .block import decode
from .cache import CacheKind, check_cache
from .canvas import Canvas, left_pad
from .methods import get_method
from .orders import get_order
from .sampling import Sampling


@dataclass(frozen=True)
class Generation:
    """N samples of a response of L positions after prompts of up to P tokens."""

    sequences: Tensor  # [N, P + L] int64, prompts padded on the left
    attention_mask: Tensor  # [N, P + L] bool, False on the padding
    texts: list[str]  # responses up to their end (eos, or end of turn)
    prompts: list[list[int]]  # token ids, bos included, without padding
    rows: Tensor  # [N] int64, the row ids that seeded the samples
    order: Tensor  # [N, L] int64, response position of row n's r-th reveal; -1 past an early end
    block: Tensor  # [N, L] int64, the teacher pass (from 0) of that reveal
    teacher_passes: Tensor  # [N] int64; a verification is one, however many prefixes it holds
    teacher_rows: Tensor  # [N] int64, sequences through the teacher: every prefix counts
    sampler_passes: Tensor  # [N] int64
    block_ends: Tensor  # [N, 3] int64: verified blocks that ended full, by order, by rejection
    effective_tokens: Tensor  # [N] int64, response tokens before the end
    seconds: float  # wall clock of the decoding, device synchronised

    @property
    def responses(self) -> Tensor:
        """[N, L] int64, all tokens of the responses."""
        return self.sequences[:, self.sequences.shape[1] - self.order.shape[1] :]


# A text, or a conversation: messages with "role" and "content", for the chat template.
Prompt = str | Sequence[Mapping[str, str]]


def prompt_text(prompt: Prompt) -> str:
    """What was said, without the markup of any template: context for a judge."""
    if isinstance(prompt, str):
        return prompt
    return "".join(message["content"] + "\n" for message in prompt)


def encode_chat(teacher: Teacher, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant's turn begins.

    Raises UserError: no chat template, or messages that it refuses.
    """
    if teacher.tokenizer.chat_template is None:
        raise UserError(
            f"Teacher {teacher.name!r} has no chat template: it is no chat model; give the prompt as text."
        )
    try:
        encoded = teacher.tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, return_dict=True
        )
    except Exception as error:  # whatever the template itself raises
        raise UserError(
            f"The chat template of teacher {teacher.name!r} refuses the messages ({error}): give a list "
            "of {'role': ..., 'content': ...}."
        ) from None
    return list(encoded["input_ids"])


def encode_prompts(
    teacher: Teacher, prompts: Sequence[Prompt] | None, max_new_tokens: int
) -> list[list[int]]:
    """Token ids of each prompt, bos first; one lone bos without prompts.

    A conversation is encoded by its template, which places its own bos.
    Raises UserError where prompt and response together exceed the teacher's context.
    """
    bos = [] if teacher.bos_id is None else [teacher.bos_id]
    if prompts is None:
        encoded = [bos]
    else:
        if isinstance(prompts, str):
            raise UserError("prompts must be a list of strings, not one string.")
        encoded = [
            bos + teacher.tokenizer.encode(prompt, add_special_tokens=False)
            if isinstance(prompt, str)
            else encode_chat(teacher, prompt)
            for prompt in prompts
        ]
    for index, ids in enumerate(encoded):
        if len(ids) + max_new_tokens > teacher.max_length:
            raise UserError(
                f"Prompt {index} has {len(ids)} tokens, which with max_new_tokens={max_new_tokens} "
                f"exceeds the context of teacher {teacher.name!r} ({teacher.max_length}): "
                "shorten the prompt or the response."
            )
    return encoded


def check_length(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")


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


def generate(
    teacher: Teacher,
    sampler: JointSampler | None = None,
    prompts: Sequence[Prompt] | None = None,
    method: str = "joint",
    k: int | Sequence[int] = 4,
    num_samples: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    order: str = "entropy",
    seed: int = 0,
    batch_size: int = 64,
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
    ``k``, one or one per sample, is for the methods with a fixed number of tokens
    per teacher pass; the others take their stop rule's settings: ``budget``, ``threshold``, ``factor``,
    ``bound``, ``kl`` and ``history``. ``block_length`` finishes the response in
    blocks from the left, ``cache`` ("prefix", "block_causal") keeps what finished
    blocks computed. ``stop_at_end`` spends no pass behind a row's first end token;
    its text is the same. ``on_reveal`` is called with the live canvas after every
    reveal.

    Raises UserError: unknown method or order, k < 1 or larger than the response,
    a method that needs a sampler without one, a sampler of another teacher, a
    prompt too long, settings out of range, a block length that does not divide the
    response, a cache that the teacher or the method does not allow.
    """
    chosen, policy = get_method(method), get_order(order)
    sampling = Sampling(temperature, top_p)
    check_length(max_new_tokens)
    if chosen.has_k:
        for each in [k] if isinstance(k, int) else k:
            check_k(each, max_new_tokens)
    k_max = None if sampler is None else sampler.config.k_max
    stop = chosen.stop(k, max_new_tokens, rule_settings, k_max)
    check_blocks(block_length, max_new_tokens)
    check_cache(teacher, cache, block_length, chosen.verification is not None)
    if stop_at_end and not teacher.end_ids:
        raise UserError(f"Teacher {teacher.name!r} has no end token to stop at.")
    if chosen.uses_sampler:
        if sampler is None:
            raise UserError(f"Method {method!r} needs a sampler: pass one, or use 'marginal'.")
        teacher = sampler.reading(teacher)
        sampler.eval()
        if chosen.has_k:
            sampler.check_block(k if isinstance(k, int) else max(k))
    if num_samples < 1 or batch_size < 1:
        raise UserError(
            f"num_samples and batch_size must be at least 1, not {num_samples} and {batch_size}."
        )
    if prompts is not None and not len(prompts):
        raise UserError("prompts is empty: give at least one, or None for unconditional samples.")
    encoded = encode_prompts(teacher, prompts, max_new_tokens)
    encoded = [ids for ids in encoded for _ in range(num_samples)]
    rows = torch.arange(len(encoded)) if row_ids is None else torch.as_tensor(row_ids).long()
    if len(rows) != len(encoded):
        raise UserError(f"{len(rows)} row_ids for {len(encoded)} samples: give one per sample.")
    if not isinstance(k, int) and len(k) != len(encoded):
        raise UserError(
            f"{len(k)} values of k for {len(encoded)} samples: give one, or one per sample."
        )

    canvases = []
    synchronize(teacher.device)
    begin = time.perf_counter()
    for at in range(0, len(encoded), batch_size):
        part = slice(at, at + batch_size)
        canvas = Canvas(teacher, encoded[part], rows[part], max_new_tokens)
        if not isinstance(k, int):
            stop = chosen.stop(k[part], max_new_tokens, rule_settings, k_max)
        decode(
            teacher, sampler, canvas, chosen, stop, policy, sampling, seed, on_reveal,
            block_length, cache, stop_at_end,
        )  # fmt: skip
        canvases.append(canvas)
    synchronize(teacher.device)
    seconds = time.perf_counter() - begin
    return _collect(teacher, canvases, encoded, rows, seconds)


def _collect(
    teacher: Teacher, canvases: list[Canvas], prompts: list[list[int]], rows: Tensor, seconds: float
) -> Generation:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(canvas, name) for canvas in canvases]).cpu()

    responses = torch.cat([canvas.response(canvas.ids) for canvas in canvases]).cpu()
    length = responses.shape[1]
    ends = torch.full((len(responses),), length)
    is_end = torch.isin(responses, torch.tensor(teacher.end_ids, dtype=responses.dtype))
    ends = torch.where(is_end.any(1), is_end.int().argmax(1), ends)
    texts = [""] * len(responses)
    if teacher.tokenizer is not None:
        texts = [
            teacher.tokenizer.decode(ids[:end])
            for ids, end in zip(responses.tolist(), ends.tolist(), strict=True)
        ]
    ids, real = left_pad(prompts, teacher.pad_id)
    return Generation(
        sequences=torch.cat([ids, responses], dim=1),
        attention_mask=torch.cat([real, torch.ones_like(responses, dtype=torch.bool)], dim=1),
        texts=texts,
        prompts=prompts,
        rows=rows,
        order=joined("order"),
        block=joined("block"),
        teacher_passes=joined("teacher_passes"),
        teacher_rows=joined("teacher_rows"),
        block_ends=joined("block_ends"),
        sampler_passes=joined("sampler_passes"),
        effective_tokens=ends,
        seconds=seconds,
    )
