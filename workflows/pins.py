"""Names of the model hub whose content may change, because no commit pins them."""

from __future__ import annotations

import re
from pathlib import Path

from jointsampler.config import Config
from jointsampler.corpus import sources
from jointsampler.corpus.prompts import TASKS_SOURCE
from jointsampler.evaluation.judges import NONE, SMOLLM2
from jointsampler.teachers.checkpoint import EMBEDDED

COMMIT = re.compile(r"[0-9a-f]{40}")


def unpinned(config: Config) -> str | None:
    """One sentence that names what is not pinned and how to pin it; None if everything is."""
    prompts = config.corpus.prompts
    of_hub = [  # (key, name, whether the hub has it, revision's key, revision)
        ("teacher.name", config.teacher.name, config.teacher.name not in EMBEDDED, "teacher.revision", config.teacher.revision),
        ("corpus.prompts", prompts, prompts not in (None, TASKS_SOURCE) and not sources.is_file(prompts), "corpus.revision", config.corpus.revision),
        ("evaluate.judge", config.evaluate.judge, config.evaluate.judge not in (NONE, SMOLLM2), "evaluate.judge_revision", config.evaluate.judge_revision),
    ]  # fmt: skip
    found = [
        (f"{key}={name}", setting)
        for key, name, hub_has_it, setting, revision in of_hub
        if hub_has_it
        and not Path(name).expanduser().is_dir()
        and not COMMIT.fullmatch(revision or "")
    ]
    if not found:
        return None
    names, settings = zip(*found, strict=True)
    return (
        f"Not pinned: {', '.join(names)} may change on the hub; set {', '.join(settings)} to a commit "
        "(40 hexadecimal digits)."
    )
