"""Put the results of an evaluation's items together: one result per method and k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..decoding.methods import get_method
from .breakdown import breakdown
from .cost import UpdateCost
from .differences import as_units
from .diversity import diversity
from .items import REFERENCE, SEQUENTIAL, Item, KLItem, KLKey, KLs, Samples, update_name
from .judges import Scores
from .kl import BlockKL
from .mauve import mauve
from .measured import NATS, Metric, Units
from .nll import generative_nll, nll_units
from .results import Examples, Fidelity, MethodResult
from .stats import EXACT, Interval

Done = Iterable[tuple[Item, Samples | KLs]]


class Collected:
    """The items' results, sorted: samples by (method, k) and generation seed, KLs by key.

    ``prompts``: how many prompts the samples take in turn; None where they have none.
    """

    def __init__(self, done: Done, prompts: int | None = None):
        self.prompts = prompts
        self.samples: dict[tuple[str, int], dict[int, list[Samples]]] = defaultdict(
            lambda: defaultdict(list)
        )
        parts: dict[KLKey, list[BlockKL]] = defaultdict(list)
        for item, result in sorted(done, key=lambda pair: pair[0].begin):
            if isinstance(item, KLItem):
                for key, found in result.items():
                    parts[key].append(found)
            else:
                self.samples[item.method, item.k][item.generation].append(result)
        self.kls: dict[KLKey, BlockKL] = {
            key: BlockKL.joined(every) for key, every in parts.items()
        }

    def results(
        self,
        pairs: Sequence[tuple[str, int]],
        costs: Mapping[str, UpdateCost],
        kmeans_seeds: int = 5,
    ) -> list[MethodResult]:
        """One result per pair; NLL and MAUVE where a judge scored the samples."""
        known = {"none": None, **costs}
        return [self._result(pair, known[update_name(pair[0])], kmeans_seeds) for pair in pairs]

    def examples(self, pairs: Sequence[tuple[str, int]], shown: int) -> Examples:
        """The first ``shown`` samples of every method; the methods share their seeds."""
        columns = [m if (m, k) == SEQUENTIAL else f"{m}, k = {k}" for m, k in pairs]
        first = [self.samples[pair][0] for pair in pairs]
        texts, records = (
            [[x for part in parts for x in getattr(part, name)][:shown] for parts in first]
            for name in ("texts", "unmaskings")
        )
        return Examples(columns=columns, texts=texts, unmaskings=records if all(records) else [])

    def _result(
        self, pair: tuple[str, int], cost: UpdateCost | None, kmeans_seeds: int
    ) -> MethodResult:
        method, k = pair
        groups = self._groups(pair)
        every = [part for parts in groups for part in parts]
        samples = sum(len(part.texts) for part in every)
        tokens, passes, rows, updates, seconds = (
            sum(getattr(part, name) for part in every)
            for name in ("tokens", "teacher_passes", "teacher_rows", "update_passes", "seconds")
        )
        ends = np.sum([part.round_ends for part in every], axis=0)
        distinct, self_bleu = diversity([[t for p in parts for t in p.texts] for parts in groups])
        scores, prompts = self._scores(every), self._prompts(groups)
        kl, units = self._fidelity(method, k)
        return MethodResult(
            method=method,
            update=update_name(method),
            setting={} if pair == SEQUENTIAL else {"k": k},
            samples=samples,
            kl=kl,
            nll=None if scores is None else generative_nll(scores, prompts),
            mauve=self._mauve(pair, kmeans_seeds),
            distinct=distinct,
            self_bleu=self_bleu,
            teacher_passes=passes / samples,
            teacher_rows=rows / samples,
            update_passes=updates / samples,
            tokens_per_pass=tokens / passes,
            tokens_per_row=tokens / rows,
            tokens_per_cost=tokens / rows
            if cost is None
            else cost.tokens_per_cost(tokens, rows, updates),
            tokens_per_second=tokens / seconds,
            round_ends=tuple(ends / ends.sum()) if ends.any() else None,
            units=units | ({} if scores is None else {"nll": nll_units(scores, prompts)}),
        )

    def _fidelity(self, method: str, k: int) -> tuple[dict[str, Fidelity], dict[Metric, Units]]:
        """(by path, the units of the nats); marginal's come from any method's meter at the same k."""
        if method == SEQUENTIAL[0] or get_method(method).verification == "strict":
            # Exact by construction, so nothing was measured.
            exact = Fidelity(nats_per_token=EXACT)
            return dict.fromkeys(sorted({path for _, _, path in self.kls}), exact), {}
        found, units = {}, {}
        for (other, other_k, path), meter in self.kls.items():
            if other_k != k or path in found or method not in (other, "marginal"):
                continue
            base, own = meter.walks
            nats, captured, columns = meter.update, meter.captured, [1, 3]
            if method == "marginal":
                nats, captured, columns, own = meter.marginal, None, [0, 2], base
            found[path] = Fidelity(
                nats_per_token=nats.scaled(1 / k),
                nats_per_round=nats,
                captured=captured,
                breakdown=breakdown(own, None if own is base else base),
            )
            units[NATS[path]] = as_units(meter.per_trajectory[:, columns] * [1, k])
        return found, units

    def _scores(self, every: Sequence[Samples]) -> Scores | None:
        """The judge's scores of all samples, without features."""
        scores = [part.scores for part in every]
        if None in scores:
            return None
        joined = [np.concatenate([getattr(s, name) for s in scores]) for name in ("nll", "tokens")]
        return Scores(*joined, features=np.empty(0))

    def _prompts(self, groups: Sequence[Sequence[Samples]]) -> np.ndarray | None:
        """[n] int64: the number of every sample's prompt."""
        if self.prompts is None:
            return None
        counts = [sum(len(part.texts) for part in parts) for parts in groups]
        return np.concatenate([np.arange(count) % self.prompts for count in counts])

    def _mauve(self, pair: tuple[str, int], kmeans_seeds: int) -> Interval | None:
        reference, own = self._features(REFERENCE), self._features(pair)
        if reference is None or own is None:
            return None
        return mauve(reference, own, kmeans_seeds)

    def _features(self, pair: tuple[str, int]) -> list[np.ndarray] | None:
        """One array [n, H] per generation seed; None without a judge."""
        groups = [[part.scores for part in parts] for parts in self._groups(pair)]
        if any(scores is None for group in groups for scores in group):
            return None
        return [np.concatenate([scores.features for scores in group]) for group in groups]

    def _groups(self, pair: tuple[str, int]) -> list[list[Samples]]:
        """The parts of each generation seed, in the order of the seeds and of the samples."""
        parts = self.samples[pair]
        return [parts[seed] for seed in sorted(parts)]
