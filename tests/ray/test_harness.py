"""The harness over Ray actors gives the results of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.ray.nodes import PATIENCE
from tests.support.problems import write
from tests.support.sandbox import need_sandbox

ROOT = Path(__file__).parents[2]
EVALUATE = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from workflows import harness
model, data, actors = sys.argv[1:]
given = {"actors": int(actors)} if model == harness.NAME else {}
results = simple_evaluate(
    model,
    model_args={"teacher": "tiny", "method": "marginal", "k": 2, "threads": 1} | given,
    tasks=["jointsampler_shuffle", "jointsampler_humaneval"],
    gen_kwargs={"max_gen_toks": 16},
    batch_size=2,
    device="cpu",
    bootstrap_iters=0,
    task_manager=TaskManager(
        include_path=str(harness.command.TASKS),
        include_defaults=False,
        metadata={"documents": 10, "data": data},
    ),
)
texts = {task: [s["resps"] for s in samples] for task, samples in results["samples"].items()}
config = results["config"]
print(json.dumps([results["results"], texts, config["cost"], config.get("actors")], default=str))
"""


def evaluated(head, *arguments: object):
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, *map(str, arguments)],
        env=head.driver_environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240 * PATIENCE, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_merged_results_are_those_of_one_process(head, tmp_path):
    need_sandbox()
    problems = write(tmp_path / "ours.jsonl")
    *fanned, actors = evaluated(head, "jointsampler-ray", problems, 2)
    *alone, none = evaluated(head, "jointsampler", problems, 0)
    assert fanned == alone
    assert (actors, none) == (2, None)
