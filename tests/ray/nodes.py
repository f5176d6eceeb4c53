"""Real Ray nodes for tests: raylets as processes of this machine, each in its own process group."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

# Limits are meant for two free cores; on a machine that has other work they may be stretched.
PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(condition, seconds: float, what: str):
    """The first true value of ``condition()``; AssertionError after ``seconds``, times $TEST_PATIENCE."""
    limit = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < limit:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not in {seconds} s")


def end(process: subprocess.Popen) -> None:
    """Terminate a process group that this module started, in the end by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


class Head:
    """A Ray head and the nodes that joined it; a context manager."""

    def __init__(self, cpus: int):
        self.gcs, self.dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "disabled",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # A dead node is noticed in seconds here, not in half a minute.
            "RAY_health_check_initial_delay_ms": "2000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # and so is a dead training worker
        }
        # For drivers alone: a node, or a submitted job, must not be sent elsewhere by it.
        self.driver_environment = self.environment | {"RAY_ADDRESS": f"127.0.0.1:{self.gcs}"}
        self.cpus, self.nodes = cpus, []
        self._folder = tempfile.TemporaryDirectory(
            prefix="js", dir="/tmp", ignore_cleanup_errors=True
        )

    def __enter__(self) -> Head:
        head = self._start(
            "--head", f"--port={self.gcs}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}", cpus=self.cpus,
        )  # fmt: skip

        def answers() -> bool:
            assert head.poll() is None, "ray start ended"
            try:
                urllib.request.urlopen(f"{self.address}/api/version", timeout=2).close()
                return True
            except (urllib.error.URLError, OSError):
                return False

        wait_until(answers, 90, "the dashboard answers")
        return self

    def __exit__(self, *_) -> None:
        for process in reversed(self.nodes):
            end(process)
        self._folder.cleanup()

    def _start(self, *arguments: str, cpus: int, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [
                *("ray", "start", "--block", f"--num-cpus={cpus}", "--disable-usage-stats"),
                *("--min-worker-port=0", "--max-worker-port=0", *arguments),
                # As on machines of their own: nodes that share one unpack a job's files over each other.
                f"--temp-dir={self._folder.name}/{len(self.nodes)}",
                # Jobs go through it; its usual port may be another Ray's on this machine.
                f"--dashboard-agent-listen-port={free_port()}",
            ],
            env=self.environment | environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self.nodes.append(process)
        return process

    def alive(self) -> int:
        """Nodes that the cluster counts as alive."""
        code = (
            "import ray; ray.init(logging_level='error'); "
            "print('alive', sum(n['Alive'] for n in ray.nodes()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.driver_environment, capture_output=True, text=True, check=True
        )  # fmt: skip
        return int(re.search(r"^alive (\d+)$", done.stdout, re.MULTILINE)[1])  # Ray prints too

    def add_node(self, cpus: int, **environment: str) -> subprocess.Popen:
        """A node whose processes, the workers among them, have ``environment`` too."""
        before = self.alive()
        process = self._start(f"--address=127.0.0.1:{self.gcs}", cpus=cpus, **environment)
        wait_until(lambda: self.alive() > before, 60, "a node joins")
        return process

    def workers(self, name: str) -> list[tuple[psutil.Process, subprocess.Popen]]:
        """(worker process, node) of every running worker whose title contains ``name``."""
        found = []
        for node in self.nodes:
            if node.poll() is not None:
                continue
            for child in psutil.Process(node.pid).children(recursive=True):
                try:
                    if name in " ".join(child.cmdline()):
                        found.append((child, node))
                except psutil.Error:  # it ended meanwhile
                    continue
        return found
