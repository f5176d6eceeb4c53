"""lm-evaluation-harness with its requests fanned out over Ray actors.

    jointsampler lm-eval-ray --model_args teacher=tiny,method=refresh,k=4,actors=8 --tasks gsm8k

All arguments are those of ``jointsampler lm-eval``; the model has one more, ``actors``
(0: one per GPU of the cluster, or per CPU). The harness runs once, in this process:
documents, prompts, filters, metrics, and the programs of code tasks. Each actor
holds a model of ``jointsampler.harness`` and answers pieces of the requests. A response
depends on (seed, document, repeat) alone, so the results are those of one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import ray
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry
from ray.util import ActorPool
from tqdm import tqdm

from jointsampler.errors import UserError
from jointsampler.harness import command
from jointsampler.harness.model import JointSamplerLM
from jointsampler.harness.settings import read_settings
from jointsampler.tuning.auto import AUTO
from workflows import cluster
from workflows.watch import MOST

NAME = "jointsampler-ray"
_PIECES = 8  # per actor, so that one with slower pieces holds up the others little


class Worker:
    """One model in a process of its own."""

    def __init__(self, model_args: dict[str, Any]):
        self.model = JointSamplerLM(**model_args)

    def answer(self, kind: str, requests: list[Instance]) -> tuple[list[Any], Counter[str]]:
        """(What the harness's method ``kind`` returns, the cost of these requests)."""
        self.model.cost.clear()
        answers = getattr(self.model, kind)(requests, disable_tqdm=True)
        return answers, Counter(self.model.cost)

    def describe(self) -> tuple[str, str | None, dict[str, Any]]:
        """(Tokenizer name, chat template, model info)."""
        model = self.model
        return model.tokenizer_name, model.chat_template(True), model.get_model_info()


class FanOut(LM):
    """The harness's model: splits requests into pieces, and joins the answers in their order."""

    apply_chat_template = JointSamplerLM.apply_chat_template

    def __init__(self, actors: int = 0, **model_args: Any):
        super().__init__()
        settings = read_settings(model_args)
        if settings.method == AUTO:
            raise UserError(
                "--model_args method=auto is measured on one device for all documents: name the method "
                "and the k that `jointsampler tune` recommends."
            )
        # The harness's default names a GPU; the actors take what the cluster has.
        device = model_args.get("device")
        model_args["device"] = "auto" if device in (None, "cuda:0") else device
        cluster.connect()
        pool = cluster.pool(actors, model_args["device"])
        # A lost actor's piece is answered again, with the same numbers; one that ends its processes
        # ends the run.
        worker = ray.remote(max_restarts=-1, max_task_retries=MOST, **pool.resources)(Worker)
        self.workers = [worker.remote(model_args) for _ in range(pool.size)]
        with cluster.user_errors():
            described = ray.get(self.workers[0].describe.remote())
        self._name, self._template, self._info = described
        self.batch_size = settings.batch_size
        self.cost: Counter[str] = Counter()

    @property
    def tokenizer_name(self) -> str:
        return self._name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._template if chat_template else None

    def get_model_info(self) -> dict[str, Any]:
        return self._info | {"actors": len(self.workers), "cost": dict(self.cost)}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._fanned("generate_until", requests, disable_tqdm)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        return self._fanned("loglikelihood", requests, disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        return self._fanned("loglikelihood_rolling", requests, disable_tqdm)

    def _fanned(self, kind: str, requests: list[Instance], quiet: bool) -> list[Any]:
        share = -(-len(requests) // (_PIECES * len(self.workers)))
        parts = pieces(requests, max(self.batch_size, share))
        answers: list[Any] = []
        told = ActorPool(self.workers).map(
            lambda worker, part: worker.answer.remote(kind, part), parts
        )
        bar = tqdm(total=len(requests), desc=kind, disable=quiet)
        with bar, cluster.user_errors():
            for found, cost in told:
                answers += found
                self.cost.update(cost)  # which, unlike +, keeps zeros
                bar.update(len(found))
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return answers


def pieces(requests: Sequence[Instance], size: int) -> list[list[Instance]]:
    """``requests`` in their order, about ``size`` a piece; the repeats of a request stay together.

    They are numbered by their order within a piece, which is part of a row's random stream.
    """
    found: list[list[Instance]] = []
    for _, group in groupby(requests, key=lambda r: (r.task_name, r.doc_id, r.idx)):
        if not found or len(found[-1]) >= size:
            found.append([])
        found[-1] += group
    return found


if NAME not in model_registry:
    model_registry.register(NAME, target=f"{FanOut.__module__}:{FanOut.__name__}")


def main(argv: Sequence[str]) -> int:
    return command.main(["--model", NAME, *argv])
