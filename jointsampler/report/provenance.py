"""Where runs come from, and what makes them hard to compare, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation.pairing import judge_name
from .record import Run


def origin(run: Run) -> list[tuple[str, str]]:
    """Where a run comes from: (what, in words)."""
    r, record = run.results, run.record
    machine = r.machine
    parts = [f"{machine.get('cores')} cores", f"{machine.get('memory_gib')} GiB"]
    parts += [str(machine[key]) for key in ("gpu", "processor") if machine.get(key)]
    commits = list(dict.fromkeys(s.commit for s in record.stages.values() if s.commit))
    seeds = [f"{key} = {value}" for key, value in _seeds(r.config)]
    return [
        ("Commit", ", ".join(commits) or "not known: the code did not run from a checkout"),
        ("Digest of the configuration", record.config_digest or "–"),
        ("Teacher", f"{r.teacher.name}, {r.teacher.fingerprint}"),
        ("Seeds", ", ".join(seeds) or "–"),
        ("Machine", ", ".join(parts)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in r.versions.items())),
        ("MLflow run", record.mlflow_run or "–"),
    ]


def _seeds(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _seeds(value, f"{prefix}{key}.")
        elif key == "seed" or key.endswith("_seeds"):
            found.append((prefix + key, value))
    return found


def warnings(runs: Sequence[Run]) -> list[str]:
    """What makes runs hard to compare, one sentence each."""
    checks = {
        "The runs have different teachers, so their distances are to different joint distributions.": [
            run.results.teacher.fingerprint for run in runs
        ],
        "The runs were judged by different models, so NLL and MAUVE cannot be compared.": [
            judge_name(run.results.judge) for run in runs
        ],
        "KL was measured at different temperatures.": [run.results.kl_temperature for run in runs],
        "The runs were measured on different machines: tokens/s and costs are each machine's own.": [
            {k: v for k, v in run.results.machine.items() if k in ("processor", "cores", "gpu")}
            for run in runs
        ],
    }
    return [said for said, values in checks.items() if any(v != values[0] for v in values)]
