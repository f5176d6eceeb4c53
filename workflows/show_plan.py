"""What a run would do and how long it would take, printed: ``--plan`` and the stage ``estimate``.

Starts nothing, and loads neither MLflow nor the code that trains. ``forecast.py``
says what is counted.
"""

from __future__ import annotations

from pathlib import Path

from jointsampler.config import Config
from workflows import cluster, corpus, estimate, report
from workflows.forecast import UNKNOWN_PROMPT, Devices
from workflows.pins import unpinned
from workflows.sweep import plan as sweep_plan


def show(stage: str, config: Config, out: Path) -> None:
    """Print the projection of stage ``estimate``, or the plan of all stages."""
    if stage == "estimate":
        print(estimate.projection(corpus.plan(config, out), config.estimate))
        return
    swept = sweep_plan.plan(config, out) if config.sweep.wanted else None
    planned = report.plan(config, out)
    print(estimate.table(planned, swept, Devices.of(config, cluster.named_resources())))
    made = planned.evaluate.train.corpus
    if made.source is not None and not made.first_prompts:
        print(
            f"Not looked at: corpus.prompts={made.source.name}, whose first rows cannot be read from here; "
            f"a prompt counts as {UNKNOWN_PROMPT} tokens, and a run checks the columns before it starts Ray."
        )
    if (sentence := unpinned(config)) is not None:
        print(sentence)
