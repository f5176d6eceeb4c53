"""The commit of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """HEAD, with "-changed" where files differ from it.

    None where the code does not run from a checkout: Ray copies a job's code without one.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head, changes = (
            subprocess.run(
                [*git, *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "..", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-changed" if changes else "")
