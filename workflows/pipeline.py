"""The whole workflow: corpus -> sweep, if any -> train -> evaluate -> report.

    python workflows/pipeline.py --config workflows/configs/quickstart.yaml --out DIR [section.field=value ...]
    ray job submit --working-dir . -- python workflows/pipeline.py --config ... --out /absolute/DIR
    python workflows/pipeline.py --config ... --out DIR --plan      # what it would do and cost

Every stage is planned, and every mistake that can be found is found, before any
starts. Started again with the same inputs, finished stages are skipped and an
unfinished one goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workflows import cluster, corpus, entry, estimate, evaluate, report, sweep, train
from workflows.stage import run_once
from workflows.tracking import open_run


def main() -> None:
    args = entry.arguments(__doc__, flags={"--plan": "print stages, time, disk; start nothing"})
    config, out = args.config, args.out
    report_plan = report.plan(config, out)
    sweep_plan = sweep.plan(config, out) if config.sweep.wanted else None
    if args.flags["--plan"]:
        print(estimate.table(report_plan, sweep_plan))
        return
    with open_run(config, out) as tracker:
        cluster.connect()
        corpus_plan = report_plan.evaluate.train.corpus
        run_once(corpus_plan, lambda: corpus.run(corpus_plan))
        if sweep_plan is not None:
            results = run_once(sweep_plan, lambda: sweep.run(sweep_plan, tracker))
            report_plan = report.plan(sweep.chosen(config, results), out)
        evaluate_plan = report_plan.evaluate
        train_plan = evaluate_plan.train
        run_once(train_plan, lambda: train.run(train_plan, tracker.train_reporter()))
        run_once(evaluate_plan, lambda: evaluate.run(evaluate_plan, tracker))
        run_once(report_plan, lambda: report.run(report_plan, tracker))
    print(f"report: {report_plan.page}")
    print(f"runs:   mlflow ui --backend-store-uri {tracker.uri}")


if __name__ == "__main__":
    entry.run(main)
