"""Report: results.json to a page, the page and the sampler to MLflow.

python workflows/report.py --config workflows/configs/quickstart.yaml --out DIR
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jointsampler.config.schema import Config
from jointsampler.evaluation.results import read_results
from jointsampler.report.page import write_report
from workflows import entry, evaluate, sweep
from workflows.stage import digest, require, run_once
from workflows.tracking import BEST, NEWEST, REGISTERED_MODEL, Tracker, open_run


@dataclass(frozen=True)
class ReportPlan:
    out: Path
    evaluate: evaluate.EvaluatePlan
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
    return ReportPlan(out, evaluate.plan(config, out), config.sweep.wanted)


def run(plan: ReportPlan, tracker: Tracker) -> dict[str, Any]:
    page = write_report(read_results(plan.evaluate.results), plan.page.parent)
    tracker.log_folder(page.parent, "report")
    aliases = [NEWEST, BEST] if plan.swept else [NEWEST]
    version = tracker.register_sampler(plan.evaluate.train.folder, aliases)
    model = version and f"models:/{REGISTERED_MODEL}/{version}"
    return {"page": str(page), "model": model}


def main() -> None:
    config, out = entry.parse(__doc__)
    report_plan = plan(sweep.settled(config, out), out)
    require(report_plan.evaluate)
    with open_run(config, out) as tracker:
        run_once(report_plan, lambda: run(report_plan, tracker))


if __name__ == "__main__":
    entry.run(main)
