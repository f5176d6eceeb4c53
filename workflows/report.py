"""Report: what the run left, to a page; the page and the sampler to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointsampler.config import Config
from jointsampler.evaluation.results import read_results
from jointsampler.report.curve import read_curve
from jointsampler.report.record import Run, RunRecord, StageRecord, write_record
from workflows import evaluation
from workflows.stage import digest, read_manifest

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


def record(plan: ReportPlan, config_digest: str, mlflow_run: str | None) -> RunRecord:
    """What the out folder says about the run beside its results."""
    stages = read_manifest(plan.out)["stages"]
    return RunRecord(
        name=plan.out.name,
        config_digest=config_digest,
        mlflow_run=mlflow_run,
        stages={
            name: StageRecord(**{key: entry.get(key) for key in StageRecord.model_fields})
            for name, entry in stages.items()
        },
        curve=read_curve(plan.evaluate.train.curve),
    )


def run(plan: ReportPlan, tracker: Tracker) -> dict[str, Any]:
    # A plan needs neither MLflow nor the templates.
    from jointsampler.report.page import write_report
    from workflows.tracking import BEST, NEWEST, REGISTERED_MODEL, config_digest

    known = record(plan, config_digest(plan.evaluate.config), tracker.outbox.run_id)
    made = Run(read_results(plan.evaluate.results), known)
    write_record(made.record, plan.page.parent)
    page = write_report(made, plan.page.parent)
    tracker.log_folder(page.parent, "report")
    aliases = [NEWEST, BEST] if plan.swept else [NEWEST]
    version = tracker.register_sampler(plan.evaluate.train.folder, aliases)
    model = version and f"models:/{REGISTERED_MODEL}/{version}"
    return {"page": str(page), "model": model}
