"""The model ``jointsampler`` of lm-evaluation-harness: our decoding behind its three methods.

``generate_until`` decodes with the method of the model's arguments. Likelihoods are
Monte-Carlo bounds of the teacher (``evaluation/likelihood.py``), so they do not
depend on the method. Documents, prompts, filters and metrics are the harness's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm

from ..cli.common import load_models, pick_update, updates_of
from ..decoding import generate
from ..decoding.generate import Generation
from ..decoding.methods import get_method
from ..decoding.prompts import Prompt, encode_prompts
from ..evaluation.likelihood import likelihood_bound
from ..tuning.auto import AUTO, resolve
from ..version import VERSION
from .settings import Wanted, check_rule_settings, read_settings, read_wanted

_COUNTED = ("effective_tokens", "teacher_passes", "teacher_rows", "update_passes")


class Conversation(str):
    """Messages as JSON: what the harness carries as a context, for the teacher's own template."""

    __slots__ = ()


class JointSamplerLM(LM):
    """A row's random stream depends on (seed, document, repeat) alone, so batches change nothing.

    The row id of repeat r of document i of a task is ``i * repeats + r``, as in
    ``generate(prompts, num_samples=repeats)``.
    """

    def __init__(self, **model_args: Any):
        super().__init__()
        self.settings = read_settings(model_args)
        self.teacher, self.sampler = load_models(self.settings)
        self.method = self.settings.method or ("sequential" if self.sampler is None else "joint")
        check_rule_settings(self.settings, self.method)
        self.tokenizer = self.teacher.tokenizer
        self._device = self.teacher.device
        self.cost: Counter[str] = Counter()

    # Conversations

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> Conversation:
        """The messages; a prefix of the answer is a last message of the assistant's."""
        return Conversation(json.dumps(chat_history, ensure_ascii=False))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        return f"{self.teacher.name}-{self.teacher.fingerprint}".replace("/", "__")

    # What the harness asks for

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The responses, each cut before its first stop string."""
        rows = _row_ids(requests)
        wanted = [read_wanted(request.args[1], self.settings) for request in requests]
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="Decoding", disable=disable_tqdm) as bar:
            for kind in dict.fromkeys(wanted):
                members = [i for i, other in enumerate(wanted) if other == kind]
                prompts = {i: _prompt(requests[i].args[0]) for i in members}
                for part, out in self._decoded(kind, members, prompts, rows):
                    for i, text in zip(part, out.texts, strict=True):
                        texts[i] = kind.cut(text)
                        self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                    bar.update(len(part))
        return texts

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(Bound in nats, whether sequential greedy decoding gives the continuation) of each.

        The greedy check takes one full pass per token of a continuation.
        """
        pairs = [self._split(*request.args[:2]) for request in requests]
        rows = [request.doc_id for request in requests]
        nats = self._bounds([(ids, answer) for _, ids, answer in pairs], rows, disable_tqdm)
        greedy = [False] * len(requests)
        for length in sorted({len(answer) for _, _, answer in pairs} - {0}):
            members = [i for i, (_, _, answer) in enumerate(pairs) if len(answer) == length]
            out = generate(
                self.teacher,
                prompts=[pairs[i][0] for i in members],
                method="sequential",
                max_new_tokens=length,
                temperature=0,
                order=self.settings.order,
                seed=self.settings.seed,
                batch_size=self.settings.batch_size,
                row_ids=[rows[i] for i in members],
            )
            for i, ids in zip(members, out.responses.tolist(), strict=True):
                greedy[i] = ids == pairs[i][2]
        results = list(zip(nats, greedy, strict=True))
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The bound of each whole text in nats.

        A text longer than the context is split into windows without overlap; each is
        conditioned on bos alone, and the bounds add up.
        """
        bos = [] if self.teacher.bos_id is None else [self.teacher.bos_id]
        size = self.teacher.max_length - len(bos)
        windows, rows, owners = [], [], []
        for i, request in enumerate(requests):
            ids = self.tokenizer.encode(request.args[0], add_special_tokens=False)
            for begin in range(0, len(ids), size):
                windows.append((bos, ids[begin : begin + size]))
                rows.append(request.doc_id)
                owners.append(i)
        totals = [0.0] * len(requests)
        for owner, nats in zip(owners, self._bounds(windows, rows, disable_tqdm), strict=True):
            totals[owner] += nats
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def get_model_info(self) -> dict[str, Any]:
        """For the harness's results: what decoded, and the cost of all generations."""
        return {
            "jointsampler": VERSION,
            "teacher_fingerprint": self.teacher.fingerprint,
            "settings": self.settings.model_dump() | {"method": self.method},
            "cost": dict(self.cost),
        }

    # How it is done

    def _decoded(
        self,
        wanted: Wanted,
        members: Sequence[int],
        prompts: dict[int, Prompt],
        rows: Sequence[int],
    ) -> Iterator[tuple[list[int], Generation]]:
        """The requests ``members`` batch by batch: (their indices, their samples)."""
        settings, size = self.settings, self.settings.batch_size
        encoded = encode_prompts(self.teacher, list(prompts.values()), wanted.max_new_tokens)
        lengths = dict(zip(members, map(len, encoded), strict=True))
        # Prompts of like length share a batch, because padding costs as much as text.
        members = sorted(members, key=lambda i: (lengths[i], i))
        call: dict[str, Any] = dict(
            max_new_tokens=wanted.max_new_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            order=settings.order,
            seed=settings.seed,
            batch_size=size,
            block_length=settings.block_length,
            cache=settings.cache,
            stop_at_end=bool(self.teacher.end_ids),
            **settings.rule_settings,
        )
        if self.method == AUTO:  # one choice for all batches
            every = [prompts[i] for i in members]
            choice, call = resolve(self.teacher, self.sampler, every, call | {"k": settings.k})
            method, update = choice.method, choice.update
        else:
            method, call["k"] = self.method, 4 if settings.k is None else settings.k
            updates = updates_of(settings, self.sampler)
            update = pick_update(get_method(method), settings.update, updates)
        for begin in range(0, len(members), size):
            part = members[begin : begin + size]
            call["row_ids"] = [rows[i] for i in part]
            chosen = [prompts[i] for i in part]
            out = generate(self.teacher, update, chosen, method, **call)
            for name in _COUNTED:
                self.cost[name] += int(getattr(out, name).sum())
            yield part, out

    def _split(self, context: str, continuation: str) -> tuple[Prompt, list[int], list[int]]:
        """(The prompt, its ids, the ids of the continuation).

        Context and continuation are encoded as one text, and cut where the context's
        own ids end; blanks at the end of the context belong to the continuation. The
        answer of a conversation is encoded by itself, since a template stands between.
        """
        prompt = _prompt(context)
        if not isinstance(prompt, str):
            (ids,) = encode_prompts(self.teacher, [prompt], 0)
            return prompt, ids, self.tokenizer.encode(continuation, add_special_tokens=False)
        text = prompt.rstrip()
        ids, whole = encode_prompts(self.teacher, [text, prompt + continuation], 0)
        return text, ids, whole[len(ids) :]

    def _bounds(
        self, pairs: Sequence[tuple[list[int], list[int]]], rows: Sequence[int], quiet: bool
    ) -> list[float]:
        """Likelihood bounds, some texts at a time, so that progress shows."""
        settings, found = self.settings, []
        step = max(1, settings.batch_size)
        for begin in tqdm(range(0, len(pairs), step), desc="Likelihoods", disable=quiet):
            part = pairs[begin : begin + step]
            bounds = likelihood_bound(
                self.teacher,
                [prompt for prompt, _ in part],
                [answer for _, answer in part],
                rows[begin : begin + step],
                settings.likelihood_draws,
                settings.seed,
                settings.batch_size,
            )
            found.extend(bounds.tolist())
        return found


def _prompt(context: str) -> Prompt:
    return json.loads(context) if isinstance(context, Conversation) else context


def _row_ids(requests: Sequence[Instance]) -> list[int]:
    """The row id of each request; the harness repeats an instance ``repeats`` times."""
    seen: Counter[tuple[str | None, int, int]] = Counter()
    rows = []
    for request in requests:
        key = (request.task_name, request.doc_id, request.idx)
        rows.append(request.doc_id * request.repeats + seen[key])
        seen[key] += 1
    return rows
