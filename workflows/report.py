"""Report: results.json to a page, the page and the sampler to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointsampler.config import Config
from jointsampler.evaluation.results import StageTime, read_results
from workflows import evaluation
from workflows.stage import digest, recorded_times

if TYPE_CHECKING:
    from workflows.tracking import Tracker


@dataclass(frozen=True)
class ReportPlan:
    out: Path
    evaluate: evaluation.EvaluatePlan
    swept: bool  # whether the sampler is the best of a sweep

    stage = "report"

    @property
    def page(self) -> Path:
        return self.out / "report" / "index.html"

    @property
    def key(self) -> str:
        return digest(self.evaluate.key)

    def intact(self) -> bool:
        return self.page.exists()


def plan(config: Config, out: Path) -> ReportPlan:
    return ReportPlan(out, evaluation.plan(config, out), config.sweep.wanted)


def run(plan: ReportPlan, tracker: Tracker) -> dict[str, Any]:
    # A plan needs neither MLflow nor matplotlib, which take seconds to load.
    from jointsampler.report.page import write_report
    from workflows.tracking import BEST, NEWEST, REGISTERED_MODEL

    results = read_results(plan.evaluate.results)
    results.stages = {k: StageTime(**times) for k, times in recorded_times(plan.out).items()}
    page = write_report(results, plan.page.parent)
    tracker.log_folder(page.parent, "report")
    aliases = [NEWEST, BEST] if plan.swept else [NEWEST]
    version = tracker.register_sampler(plan.evaluate.train.folder, aliases)
    model = version and f"models:/{REGISTERED_MODEL}/{version}"
    return {"page": str(page), "model": model}
