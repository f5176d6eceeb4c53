"""The first lines of docs/cluster.md work as they are typed, on a machine that has a token or not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ray.nodes import end, free_port, wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def typed() -> list[str]:
    """The commands of the page's first block."""
    (block, *_) = re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "docs/cluster.md").read_text(), re.M | re.S
    )
    return block.splitlines()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
    except urllib.error.HTTPError:  # it wants the token
        return True
    except OSError:
        return False
    return True


@pytest.mark.parametrize("has_token", [False, True])
def test_the_documented_lines_submit_a_job(tmp_path, has_token):
    """Ports and folders are this test's own, and the pipeline is planned, not run; the rest is as typed."""
    token, mode, start, submit = typed()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    if has_token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("ab" * 32)
    address = f"http://127.0.0.1:{(dashboard := free_port())}"

    def shell(line: str, **options) -> subprocess.Popen:
        script = "\n".join((token, mode, f"exec {line}"))
        return subprocess.Popen(
            ["bash", "-ec", script], env=environment, cwd=ROOT, start_new_session=True, **options
        )

    with tempfile.TemporaryDirectory(
        prefix="js", dir="/tmp", ignore_cleanup_errors=True
    ) as scratch:
        head = shell(
            f"{start} --block --port={free_port()} --dashboard-port={dashboard} --num-cpus=1 "
            f"--temp-dir={scratch} --dashboard-agent-listen-port={free_port()} "
            "--min-worker-port=0 --max-worker-port=0 --disable-usage-stats",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_until(lambda: answers(address), 90, "the dashboard answers")
            line = submit.replace("/shared/runs/quickstart", shlex.quote(str(tmp_path / "out")))
            line = line.replace("submit", f"submit --address {address}", 1)
            job = shell(f"{line} --plan", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
            told, _ = job.communicate(timeout=300)
        finally:
            end(head)
    assert job.returncode == 0, told[-3000:]
    assert "Forecast for 1 CPU core" in told
