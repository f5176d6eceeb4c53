"""The whole workflow: corpus -> train -> evaluate -> report.

    python workflows/pipeline.py --config workflows/configs/quickstart.yaml --out DIR [section.field=value ...]
    ray job submit --working-dir . -- python workflows/pipeline.py --config ... --out /absolute/DIR

Every stage is planned, and every mistake that can be found is found, before any
starts. Started again with the same inputs, finished stages are skipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workflows import cluster, corpus, entry, evaluate, report, train
from workflows.stage import run_once
from workflows.tracking import open_run


def main() -> None:
    config, out = entry.parse(__doc__)
    report_plan = report.plan(config, out)
    evaluate_plan = report_plan.evaluate
    train_plan = evaluate_plan.train
    corpus_plan = train_plan.corpus
    with open_run(config, out) as tracker:
        cluster.connect()
        run_once(corpus_plan, lambda: corpus.run(corpus_plan))
        run_once(train_plan, lambda: train.run(train_plan, tracker.train_reporter()))
        run_once(evaluate_plan, lambda: evaluate.run(evaluate_plan, tracker))
        run_once(report_plan, lambda: report.run(report_plan, tracker))
    print(f"report: {report_plan.page}")
    print(f"runs:   mlflow ui --backend-store-uri {tracker.uri}")


if __name__ == "__main__":
    entry.run(main)
