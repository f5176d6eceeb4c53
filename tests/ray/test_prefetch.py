"""``jointsampler prefetch --all-nodes`` works on every node of a real cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ray.nodes import PATIENCE, Head

pytestmark = pytest.mark.slow


def prefetch(head: Head, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workflows.prefetch", "--all-nodes", "evaluate.judge=none"]
    return subprocess.run(
        [*command, *overrides], cwd=Path(__file__).parents[2], env=head.driver_environment,
        capture_output=True, text=True, check=False, timeout=240 * PATIENCE,
    )  # fmt: skip


def test_every_node_has_what_the_configuration_needs(three_nodes: Head):
    done = prefetch(three_nodes)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("prefetch: ")]
    assert len(lines) == 3 and all("teacher tiny (" in line for line in lines)


def test_nodes_that_cannot_fetch_are_told_in_one_sentence(three_nodes: Head):
    done = prefetch(three_nodes, "teacher.name=absent")
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("jointsampler: ")]
    assert told.startswith("jointsampler: 3 of 3 nodes could not fetch: ")
    assert told.count("No teacher 'absent'") == 3
