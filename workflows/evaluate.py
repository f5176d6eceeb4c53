"""Evaluate: Ray Data actors draw samples for every method and k and meter the block KL.

    python workflows/evaluate.py --config workflows/configs/quickstart.yaml --out DIR

Each actor holds teacher, sampler and judge, so a sample is judged where it is
drawn and only numbers travel. The reference is one-token-at-a-time sampling
with seeds of its own; the sequential samples judged against it are the ceiling.
All other methods share the sequential samples' seeds, so comparisons are paired.
"""

from __future__ import annotations

import itertools
import pickle
import platform
import sys
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import ray
import torch

from jointsampler import JointSampler, block_kl, generate
from jointsampler.config.schema import Config, EvaluateConfig
from jointsampler.corpus.manifest import split_corpus, verify_corpus
from jointsampler.decoding.generate import check_k, prompt_text
from jointsampler.decoding.methods import get_method
from jointsampler.evaluation.block_kl import summarize
from jointsampler.evaluation.cost import PassCost, pass_cost
from jointsampler.evaluation.judges import Judge, Scores, prepare_judge
from jointsampler.evaluation.mauve import mauve
from jointsampler.evaluation.nll import generative_nll
from jointsampler.report.results import (
    Ceiling,
    Dependency,
    Examples,
    Interval,
    MethodResult,
    Results,
    SamplerCard,
    SweepTable,
    TeacherCard,
)
from workflows import cluster, entry, sweep, teachers, train
from workflows.stage import Progress, digest, require, run_once, write_json
from workflows.tracking import Tracker, open_run

REFERENCE, SEQUENTIAL = ("reference", 1), ("sequential", 1)


@dataclass(frozen=True)
class EvaluatePlan:
    out: Path
    train: train.TrainPlan
    settings: EvaluateConfig
    judge: str | None  # folder or hub id, ready to load; None leaves MAUVE and NLL out
    pairs: tuple[tuple[str, int], ...]  # (method, k)
    config: Config

    stage = "evaluate"

    @property
    def results(self) -> Path:
        return self.out / "report" / "results.json"

    @property
    def key(self) -> str:
        swept = self.config.sweep.model_dump() if self.config.sweep.wanted else None
        return digest(self.train.key, self.settings.model_dump(exclude={"actors"}), swept)

    def intact(self) -> bool:
        return self.results.exists()

    def items(self) -> list[dict[str, Any]]:
        """Units of work, the long ones first."""
        settings, corpus = self.settings, self.train.corpus.settings
        work = []
        for pair, generation in itertools.product(
            (REFERENCE, *self.pairs), range(settings.generation_seeds)
        ):
            for begin in range(0, settings.samples, settings.samples_per_item):
                end = min(begin + settings.samples_per_item, settings.samples)
                work.append(("samples", *pair, generation, begin, end))
        for k in sorted({k for _, k in self.pairs if k > 1}):
            for begin in range(0, corpus.held_out, 32):
                work.append(("block_kl", "", k, 0, begin, min(begin + 32, corpus.held_out)))
        work.sort(key=lambda item: item[2])  # small k, many teacher passes
        names = ("kind", "method", "k", "generation", "begin", "end")
        return [dict(zip(names, item, strict=True)) for item in work]


def plan(config: Config, out: Path) -> EvaluatePlan:
    """What would be evaluated; the judge is fetched here, before any work starts."""
    settings = config.evaluate
    methods = dict.fromkeys(["marginal", *settings.methods])  # the baseline is always there
    for name in methods:
        get_method(name)
    for k in settings.ks:
        check_k(k, config.corpus.max_new_tokens)
    pairs = [SEQUENTIAL]
    pairs += [(m, k) for k in settings.ks if k > 1 for m in methods if m != "sequential"]
    train_plan = train.plan(config, out)
    return EvaluatePlan(
        out, train_plan, settings, prepare_judge(settings.judge), tuple(pairs), config
    )


class EvaluationActor:
    """Teacher, sampler and judge of one worker; does any item."""

    def __init__(self, plan: EvaluatePlan):
        self.plan = plan
        self.teacher = teachers.load(plan.train.corpus.teacher)
        self.sampler = JointSampler.from_pretrained(plan.train.folder).to(self.teacher.device)
        self.judge = None if plan.judge is None else Judge(plan.judge)
        self.held_out = split_corpus(plan.train.corpus.folder)[1]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        items = [
            dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
        ]
        # Pickled here: the two kinds of result have no Arrow type in common.
        return {"item": items, "result": [pickle.dumps(self.do(item)) for item in items]}

    def do(self, item: dict[str, Any]) -> dict[str, Any]:
        return self.samples(item) if item["kind"] == "samples" else self.block_kl(item)

    def block_kl(self, item: dict[str, Any]) -> dict[str, Any]:
        rows = self.held_out.select(range(int(item["begin"]), int(item["end"])))
        part = block_kl(
            self.teacher,
            self.sampler,
            rows,
            k=int(item["k"]),
            order=self.plan.train.corpus.settings.order,
        )
        return {"per_trajectory": part.per_trajectory.tolist(), "blocks": part.blocks}

    def samples(self, item: dict[str, Any]) -> dict[str, Any]:
        corpus = self.plan.train.corpus
        is_reference = item["method"] == "reference"
        ids = range(int(item["begin"]), int(item["end"]))
        prompts = None
        if corpus.prompts is not None:
            unseen = corpus.prompts[corpus.settings.rows :]  # the held-out trajectories'
            prompts = [unseen[i % len(unseen)] for i in ids]
        generation = generate(
            self.teacher,
            self.sampler,
            prompts=prompts,
            method="sequential" if is_reference else str(item["method"]),
            k=int(item["k"]),
            num_samples=len(ids) if prompts is None else 1,
            max_new_tokens=corpus.settings.max_new_tokens,
            temperature=corpus.settings.temperature,
            top_p=corpus.settings.top_p,
            order=corpus.settings.order,
            # Seeds of the corpus, the reference and the samples never meet.
            seed=(corpus.seed * 1_000 + int(item["generation"])) * 3 + (1 if is_reference else 2),
            batch_size=len(ids),
            row_ids=ids,
        )
        result = {
            "texts": generation.texts,
            "teacher_passes": int(generation.teacher_passes.sum()),
            "teacher_rows": int(generation.teacher_rows.sum()),
            "sampler_passes": int(generation.sampler_passes.sum()),
            "effective_tokens": int(generation.effective_tokens.sum()),
            "seconds": generation.seconds,
        }
        if self.judge is not None:
            context = None if prompts is None else [prompt_text(prompt) for prompt in prompts]
            scores = self.judge.score(generation.texts, context)
            result |= {"nll": scores.nll, "tokens": scores.tokens, "features": scores.features}
        return result


def interval(estimate: Any) -> Interval:
    return Interval(value=estimate.value, low=estimate.low, high=estimate.high, n=estimate.n)


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on many Linux systems
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "ray_resources": {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")},
    }


def packages() -> dict[str, str]:
    names = ("jointsampler", "torch", "transformers", "ray", "deepspeed", "mlflow", "mauve-text")
    found = {name: version(name) for name in names[1:]}
    from jointsampler import __version__

    return {"python": platform.python_version(), "jointsampler": __version__, **found}


def collect(plan: EvaluatePlan, rows: list[dict[str, Any]], cost: PassCost) -> list[MethodResult]:
    """One result per (method, k), from the items' results."""
    parts: dict[tuple[str, int], dict[int, list]] = defaultdict(lambda: defaultdict(list))
    meters: dict[int, list] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["item"]["begin"]):
        item = row["item"]
        if item["kind"] == "samples":
            parts[item["method"], int(item["k"])][int(item["generation"])].append(row["result"])
        else:
            meters[int(item["k"])].append(row["result"])

    def features(pair: tuple[str, int]) -> list[np.ndarray]:
        groups = [parts[pair][g] for g in sorted(parts[pair])]
        return [np.concatenate([np.asarray(p["features"]) for p in group]) for group in groups]

    results = []
    for method, k in plan.pairs:
        every = [p for group in parts[method, k].values() for p in group]
        total = {
            name: sum(p[name] for p in every)
            for name in (
                *("teacher_passes", "teacher_rows", "sampler_passes"),
                *("effective_tokens", "seconds"),
            )
        }
        samples = sum(len(p["texts"]) for p in every)
        result = MethodResult(
            method=method,
            k=k,
            samples=samples,
            teacher_passes=total["teacher_passes"] / samples,
            teacher_rows=total["teacher_rows"] / samples,
            sampler_passes=total["sampler_passes"] / samples,
            tokens_per_teacher_pass=total["effective_tokens"] / total["teacher_passes"],
            cost_weighted_tokens_per_pass=cost.tokens_per_pass(
                total["effective_tokens"], total["teacher_passes"], total["sampler_passes"]
            ),
            tokens_per_second=total["effective_tokens"] / total["seconds"],
        )
        if plan.judge is not None:
            against = mauve(features(REFERENCE), features((method, k)), plan.settings.kmeans_seeds)
            result.mauve = Interval(
                value=against.value, low=against.low, high=against.high, n=against.n, sd=against.sd
            )
            joined = [np.concatenate([p[name] for p in every]) for name in ("nll", "tokens")]
            result.nll = interval(generative_nll(Scores(*joined, features=np.empty(0))))
        if k in meters and method in ("marginal", "joint"):
            per_trajectory = np.concatenate([np.asarray(m["per_trajectory"]) for m in meters[k]])
            meter = summarize(k, per_trajectory, sum(m["blocks"] for m in meters[k]))
            result.block_kl = Dependency(
                nats=interval(meter.sampler if method == "joint" else meter.marginal),
                captured=interval(meter.captured) if method == "joint" else None,
                blocks=meter.blocks,
            )
        results.append(result)
    return results


def examples(plan: EvaluatePlan, rows: list[dict[str, Any]]) -> Examples:
    """The first samples of every method, which share their seeds."""
    first = {
        (row["item"]["method"], int(row["item"]["k"])): row["result"]["texts"][
            : plan.settings.shown
        ]
        for row in rows
        if row["item"]["kind"] == "samples"
        and row["item"]["generation"] == 0
        and row["item"]["begin"] == 0
    }
    columns = [f"{method}, k = {k}" for method, k in plan.pairs]
    return Examples(columns=columns, texts=[first[pair] for pair in plan.pairs])


def measured_cost(plan: EvaluatePlan) -> tuple[PassCost, dict[str, Any]]:
    """c where the work will be done, and what machine that is."""
    teacher = teachers.load(plan.train.corpus.teacher)
    sampler = JointSampler.from_pretrained(plan.train.folder).to(teacher.device)
    decoded = plan.train.corpus.settings
    cost = pass_cost(teacher, sampler, batch=16, length=decoded.max_new_tokens, order=decoded.order)
    return cost, machine()


def sweep_table(plan: EvaluatePlan) -> SweepTable | None:
    """What the sweep found, if the sampler comes from one."""
    if not plan.config.sweep.wanted:
        return None
    return SweepTable.model_validate_json((plan.out / "sweep" / "sweep.json").read_text())


def run(plan: EvaluatePlan, tracker: Tracker | None) -> dict[str, Any]:
    """Do all items, put the numbers together, write results.json."""
    corpus = plan.train.corpus
    teacher = teachers.describe(
        corpus.teacher
    )  # the driver's node may be too small for its weights
    sampler = JointSampler.from_pretrained(plan.train.folder)
    sampler.check_fingerprint(teacher)
    verify_corpus(corpus.folder)  # a damaged file is named here, not in a worker's traceback
    work = plan.items()
    pool = cluster.pool(plan.settings.actors, corpus.teacher.device)
    # On a worker's device, before the actors take the cores.
    measure = ray.remote(measured_cost).options(**pool.resources)
    cost, hardware = ray.get(measure.remote(plan))
    progress = Progress("evaluate", len(work), "items")
    rows = []
    done = ray.data.from_items(work, override_num_blocks=len(work)).map_batches(
        EvaluationActor,
        fn_constructor_args=(plan,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(pool.size, len(work))),
        **pool.resources,
    )
    for row in cluster.told(done.iter_rows()):
        rows.append({"item": row["item"], "result": pickle.loads(row["result"])})
        progress.advance(1)
    if len(rows) != len(work):
        raise RuntimeError(f"Evaluation returned {len(rows)} of {len(work)} items.")
    methods = collect(plan, rows, cost)
    ceiling = None
    if plan.judge is not None:
        ceiling = Ceiling(mauve=methods[0].mauve)
    results = Results(
        config=plan.config.model_dump(exclude={"pretrain"}),
        versions=packages(),
        machine=hardware,
        teacher=TeacherCard(
            name=teacher.name,
            family=teacher.family,
            fingerprint=teacher.fingerprint,
            parameters=sum(p.numel() for p in teacher.model.parameters()),
        ),
        sampler=SamplerCard(
            width=sampler.config.width,
            layers=sampler.config.layers,
            parameters=sum(p.numel() for p in sampler.parameters()),
        ),
        judge=plan.settings.judge,
        pass_cost=cost.as_dict(),
        ceiling=ceiling,
        methods=methods,
        examples=examples(plan, rows),
        sweep=sweep_table(plan),
    )
    plan.results.parent.mkdir(exist_ok=True)
    write_json(plan.results, results.model_dump())
    flat = results.flat()
    if tracker is not None:
        tracker.log_results(flat)
    return flat


def main() -> None:
    config, out = entry.parse(__doc__)
    evaluate_plan = plan(sweep.settled(config, out), out)
    require(evaluate_plan.train)
    cluster.connect()
    with open_run(config, out) as tracker:
        run_once(evaluate_plan, lambda: run(evaluate_plan, tracker))


if __name__ == "__main__":
    from workflows import evaluate  # under its own name, as the workers import it

    entry.run(evaluate.main)
