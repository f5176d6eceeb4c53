"""Put the results of an evaluation's items together: one result per method and k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..decoding.methods import get_method
from .cost import UpdateCost
from .items import REFERENCE, SEQUENTIAL, Item, KLItem, KLs, Samples, update_name
from .judges import Scores
from .kl import BlockKL, summarize
from .mauve import mauve
from .nll import generative_nll
from .results import Examples, Fidelity, MethodResult
from .stats import Interval

Done = Iterable[tuple[Item, Samples | KLs]]


class Collected:
    """The items' results, sorted: samples by (method, k) and generation seed, KLs by key."""

    def __init__(self, done: Done):
        self.samples: dict[tuple[str, int], dict[int, list[Samples]]] = defaultdict(
            lambda: defaultdict(list)
        )
        parts: dict[tuple[str, int, str], list[np.ndarray]] = defaultdict(list)
        for item, result in sorted(done, key=lambda pair: pair[0].begin):
            if isinstance(item, KLItem):
                for key, per_trajectory in result.items():
                    parts[key].append(per_trajectory)
            else:
                self.samples[item.method, item.k][item.generation].append(result)
        self.kls: dict[tuple[str, int, str], BlockKL] = {
            key: summarize(key[1], np.concatenate(arrays)) for key, arrays in parts.items()
        }

    def results(
        self,
        pairs: Sequence[tuple[str, int]],
        costs: Mapping[str, UpdateCost],
        kmeans_seeds: int = 5,
    ) -> list[MethodResult]:
        """One result per pair; NLL and MAUVE where a judge scored the samples."""
        return [self._result(pair, costs.get(update_name(pair[0])), kmeans_seeds) for pair in pairs]

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
        every = [part for parts in self.samples[pair].values() for part in parts]
        samples = sum(len(part.texts) for part in every)
        tokens, passes, rows, updates, seconds = (
            sum(getattr(part, name) for part in every)
            for name in ("tokens", "teacher_passes", "teacher_rows", "update_passes", "seconds")
        )
        ends = np.sum([part.round_ends for part in every], axis=0)
        return MethodResult(
            method=method,
            update=update_name(method),
            setting={} if pair == SEQUENTIAL else {"k": k},
            samples=samples,
            kl=self._fidelity(method, k),
            nll=self._nll(every),
            mauve=self._mauve(pair, kmeans_seeds),
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
        )

    def _fidelity(self, method: str, k: int) -> dict[str, Fidelity]:
        """By path; marginal's figures come from any method's meter at the same k and path."""
        if method == SEQUENTIAL[0] or get_method(method).verification == "strict":
            # Exact by construction, so nothing was measured.
            exact = Fidelity(nats_per_token=Interval(value=0.0, low=0.0, high=0.0, n=0))
            return dict.fromkeys(sorted({path for _, _, path in self.kls}), exact)
        found = {}
        for (other, other_k, path), meter in self.kls.items():
            if other_k == k and method == "marginal" and path not in found:
                found[path] = _as_fidelity(k, meter.marginal, None)
            elif (other, other_k) == (method, k):
                found[path] = _as_fidelity(k, meter.update, meter.captured)
        return found

    def _nll(self, every: Sequence[Samples]) -> Interval | None:
        scores = [part.scores for part in every]
        if None in scores:
            return None
        joined = [np.concatenate([getattr(s, name) for s in scores]) for name in ("nll", "tokens")]
        return generative_nll(Scores(*joined, features=np.empty(0)))

    def _mauve(self, pair: tuple[str, int], kmeans_seeds: int) -> Interval | None:
        reference, own = self._features(REFERENCE), self._features(pair)
        if reference is None or own is None:
            return None
        return mauve(reference, own, kmeans_seeds)

    def _features(self, pair: tuple[str, int]) -> list[np.ndarray] | None:
        """One array [n, H] per generation seed; None without a judge."""
        parts = self.samples[pair]
        groups = [[part.scores for part in parts[seed]] for seed in sorted(parts)]
        if any(scores is None for group in groups for scores in group):
            return None
        return [np.concatenate([scores.features for scores in group]) for group in groups]


def _as_fidelity(k: int, nats: Interval, captured: Interval | None) -> Fidelity:
    return Fidelity(nats_per_token=nats.scaled(1 / k), nats_per_round=nats, captured=captured)
