"""A Slurm of two nodes on this machine, with its own key, ports and folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.ray.nodes import free_port, wait_until

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("n1", "n2")


def missing() -> str:
    """The programs that are not here: `apt-get install slurm-wlm munge`."""
    path = f"/usr/sbin{os.pathsep}{os.environ['PATH']}"
    absent = [tool for tool in (*DAEMONS, "sbatch") if shutil.which(tool, path=path) is None]
    return ", ".join(absent) if hasattr(os, "geteuid") and os.geteuid() == 0 else "root's rights"


def own_address() -> str:
    """An IPv4 address of this machine that is not its loopback's."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    return "127.0.0.1"


class Slurm:
    """``with Slurm(folder) as slurm``: munged, slurmctld and two slurmd, ended with the block."""

    def __init__(self, folder: Path):
        self.folder, self.address = folder, own_address()
        self.running: list[subprocess.Popen] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] = f"/usr/sbin{os.pathsep}{os.environ['PATH']}"

    def __enter__(self) -> Slurm:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self.running):
            if daemon.poll() is None:
                os.killpg(daemon.pid, signal.SIGTERM)
        for daemon in reversed(self.running):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
        left = list(self.left())
        for process in left:
            process.kill()
        psutil.wait_procs(left, 10)

    def left(self) -> Iterator[psutil.Process]:
        """What jobs have left running: Ray's daemons leave the groups that Slurm ends."""
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
            except psutil.Error:
                continue
            if mine:
                yield process

    def start(self) -> None:
        here = self.folder
        here.chmod(0o755)  # munged refuses a folder that others may not see
        (here / "state").mkdir()
        (here / "munge.key").write_bytes(secrets.token_bytes(128))
        (here / "munge.key").chmod(0o600)
        (here / "slurm.conf").write_text(self.settings())
        names = {"key": "key", "socket": "sock", "pid": "pid", "log": "log", "seed": "seed"}
        files = [
            f"--{name}{'' if name == 'socket' else '-file'}={here}/munge.{end}"
            for name, end in names.items()
        ]
        self.daemon("munged", "--foreground", *files)
        wait_until((here / "munge.sock").exists, 20, "munged")
        self.daemon("slurmctld", "-D")
        for name in NODES:
            self.daemon("slurmd", "-D", "-N", name)
        both = f"{len(NODES)} idle"
        ask = ("sinfo", "--noheader", "--format=%D %t")
        wait_until(lambda: self.command(*ask, check=False).strip() == both, 30, "two idle nodes")

    def settings(self) -> str:
        here, host = self.folder, socket.gethostname()
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr={self.address} Port={free_port()} "
            "CPUs=2 RealMemory=2000"
            for name in NODES
        ]
        return "\n".join(
            [
                *("ClusterName=test", f"SlurmctldHost={host}({self.address})"),
                *(f"SlurmctldPort={free_port()}", "SlurmUser=root", "SlurmdUser=root"),
                *("AuthType=auth/munge", f"AuthInfo=socket={here}/munge.sock"),
                *(f"StateSaveLocation={here}/state", f"SlurmdSpoolDir={here}/spool-%n"),
                *(f"SlurmctldPidFile={here}/ctld.pid", f"SlurmdPidFile={here}/slurmd-%n.pid"),
                *(f"SlurmctldLogFile={here}/ctld.log", f"SlurmdLogFile={here}/slurmd-%n.log"),
                *("ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "MpiDefault=none"),
                *("ReturnToService=2", "SelectType=select/cons_tres"),
                *("SelectTypeParameters=CR_CPU_Memory", "AccountingStorageType=accounting_storage/none"),
                *nodes,
                f"PartitionName=all Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP",
            ]
        )  # fmt: skip

    def daemon(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}-{len(self.running)}.out").open("w")
        self.running.append(
            subprocess.Popen(
                words, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    def command(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *words: str | Path, cwd: Path, environment: dict[str, str]) -> str:
        """The number of the job; its output goes to ``cwd``/job.out."""
        done = subprocess.run(
            ["sbatch", "--parsable", f"--output={cwd}/job.out", *map(str, words)],
            cwd=cwd, env=self.environment | environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def shown(self, number: str) -> str:
        return self.command("scontrol", "show", "job", number)

    def run(self, *words: str | Path, seconds: float, **options) -> str:
        """What a job prints; AssertionError if it fails or is not over in time."""
        number = self.submit(*words, **options)
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        state = lambda: next((s for s in over if f"JobState={s}" in self.shown(number)), None)  # noqa: E731
        try:
            ended = wait_until(state, seconds, f"job {number} ends")
        finally:
            self.command("scancel", number, check=False)
        told = (options["cwd"] / "job.out").read_text()
        assert ended == "COMPLETED", told[-3000:]
        return told
