"""The Slurm script: with stand-ins for Slurm and Ray, and (slow) by a real Slurm on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.scripts.scripts import start as ray_start
from ray.scripts.symmetric_run import symmetric_run

from tests.cluster.checks import wrong_arguments
from tests.cluster.files import ROOT, SBATCH, parsed
from tests.cluster.slurm import Slurm, missing
from tests.ray.nodes import free_port, wait_until

# With stand-ins ------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three nodes; srun and scontrol write down what they are asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool, answer in {
        "srun": '[[ $* != *symmetric-run* ]] || eval "${PIPELINE:-}"\n'
        "[[ $* != *printenv* ]] || echo 10.0.0.7",
        "scontrol": ":",
        "ip": 'echo "3: ib0    inet 10.9.0.7/16 brd 10.9.255.255 scope global ib0"',
    }.items():
        script = f'#!/usr/bin/env bash\nprintf "%s\\0" {tool} "$@" $\'\\n\' >> "$LOG"\n{answer}\n'
        (tools / tool).write_text(script)
        (tools / tool).chmod(0o755)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    path = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        "PATH": os.pathsep.join(path),
        "LOG": str(tmp_path / "log"),
        "SHARED": str(tmp_path / "scratch"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "jointsampler",
        "HOME": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_PER_TASK": "4",
    }


def calls(environment: dict[str, str]) -> list[list[str]]:
    text = Path(environment["LOG"]).read_text()
    return [line.split("\0") for line in text.split("\0\n\0") if line]


def test_slurm_starts_one_ray_on_all_nodes_with_a_token_of_the_job_and_runs_the_pipeline(
    slurm, monkeypatch
):
    token = Path(slurm["SHARED"]) / ".ray-token-77"
    slurm["PIPELINE"] = (
        'stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH"; echo $RAY_AUTH_MODE $RAY_ADDRESS $HF_TOKEN_PATH'
    )
    done = subprocess.run(
        ["bash", str(SBATCH), "train.k_max=4"],
        env=slurm, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    hub = f"{slurm['HOME']}/.cache/huggingface/token"
    assert done.stdout.split() == ["600", "64", "token", "10.0.0.7:6379", hub]
    assert not token.exists()
    asked, cleaned, *both, last = calls(slurm)
    assert asked[-2:] == ["printenv", "SLURM_LAUNCH_NODE_IPADDR"]
    assert cleaned == ["srun", "ray", "stop", "--force"]
    started, shipping = sorted(both, key=lambda words: "symmetric-run" not in words)
    assert shipping == last and f"{slurm['SHARED']}/logs/jointsampler-77" in last
    words = started[started.index("symmetric-run") + 1 :]
    split = words.index("--")
    assert words[:4] == ["--address", "10.0.0.7:6379", "--min-nodes", "3"]
    assert {"--num-cpus=16", "--num-gpus=4", '--resources={"train_driver": 1}'} <= set(
        words[:split]
    )
    assert list(wrong_arguments(symmetric_run, words)) == []
    assert list(wrong_arguments(ray_start, ["--head", *words[4:split]])) == []
    python, script, *arguments = [word for word in words[split + 1 :] if word != "-u"]
    assert python == "python" and (ROOT / script).is_file()
    config, out = parsed(arguments, monkeypatch)
    assert config.train.k_max == 4 and out.is_relative_to(slurm["SHARED"])


def test_slurm_puts_the_job_back_into_the_queue_when_its_time_is_up(slurm):
    slurm["PIPELINE"] = "sleep 30"
    job = subprocess.Popen(["bash", str(SBATCH)], env=slurm, start_new_session=True)
    try:
        log = Path(slurm["LOG"])
        limit = time.monotonic() + 15
        while not (log.exists() and "symmetric-run" in log.read_text()):
            assert time.monotonic() < limit and job.poll() is None
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        job.wait(10)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    assert ["scontrol", "requeue", "77"] in calls(slurm)


def test_slurm_fails_where_the_pipeline_fails_and_where_no_shared_folder_is_named(slurm):
    run = {"env": slurm, "capture_output": True, "text": True, "timeout": 20, "check": False}
    slurm["PIPELINE"] = "exit 2"
    assert subprocess.run(["bash", str(SBATCH)], **run).returncode == 2
    del slurm["SHARED"]
    done = subprocess.run(["bash", str(SBATCH)], **run)
    assert done.returncode != 0 and "SHARED=" in done.stderr


def test_slurm_takes_the_named_interface_for_ray_and_nccl(slurm):
    slurm |= {"INTERFACE": "ib0", "PORT": "7000"}
    slurm["PIPELINE"] = "echo $RAY_ADDRESS $NCCL_SOCKET_IFNAME $GLOO_SOCKET_IFNAME"
    done = subprocess.run(
        ["bash", str(SBATCH)], env=slurm, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == ["10.9.0.7:7000", "ib0", "ib0"]


def test_slurm_gives_the_job_all_memory_of_its_nodes():
    assert "#SBATCH --mem=0\n" in SBATCH.read_text()


# By a real Slurm ------------------------------------------------------------------------------------

real = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    options = {"prefix": "js", "dir": "/tmp", "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**options) as folder, Slurm(Path(folder)) as slurm:
        yield slurm


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose ``ray`` never runs ``ray stop``, which would end every Ray of this machine."""
    for name in ("workflows", "jointsampler", "cluster"):
        (tmp_path / name).symlink_to(ROOT / name)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    mine = Path(sys.executable).parent
    ports = f"--dashboard-port={free_port()} --dashboard-agent-listen-port={free_port()}"
    (tools / "ray").write_text(
        "#!/usr/bin/env bash\n"
        f'printf "%s " "$SLURMD_NODENAME" "$@" >> {tmp_path}/ray.log; echo >> {tmp_path}/ray.log\n'
        "[[ $1 != stop ]] || exit 0\n"
        '[[ -z ${STAND_IN:-} ]] || { sleep "$STAND_IN"; exit; }\n'
        f'[[ $1 != start ]] || exec {mine}/ray "$@" {ports} --min-worker-port=0 --max-worker-port=0\n'
        f'exec {mine}/ray "$@"\n'
    )
    (tools / "ray").chmod(0o755)
    (tools / "activate").write_text(f"export PATH={tools}:{mine}:$PATH OMP_NUM_THREADS=1\n")
    return tmp_path


def job(checkout: Path, **environment: str) -> dict:
    """What ``sbatch`` of the script in ``checkout`` is called with."""
    settings = {"SHARED": str(checkout / "shared"), "PORT": str(free_port()), **environment}
    return {"cwd": checkout, "environment": settings}


class TestRealSlurm:
    pytestmark = real

    def test_a_job_starts_ray_plans_the_pipeline_and_keeps_the_logs(self, cluster, checkout):
        told = cluster.run(
            *("--nodes=1", "--cpus-per-task=2", "--gpus-per-task=0", SBATCH, "--plan"),
            **job(checkout), seconds=240,
        )  # fmt: skip
        assert "Forecast for 2 CPU cores" in told and "activeDeadlineSeconds" in told
        shared = checkout / "shared"
        assert not list(shared.glob(".ray-token-*"))
        assert list((shared / "logs").glob("jointsampler-*/n1/session_*/gcs_server.out"))

    def test_two_nodes_are_told_one_address_and_all_of_their_memory(self, cluster, checkout):
        cluster.run(
            *("--nodes=2", "--cpus-per-task=2", "--gpus-per-task=0", SBATCH),
            **job(checkout, STAND_IN="1"), seconds=120,
        )  # fmt: skip
        lines = [line.split() for line in (checkout / "ray.log").read_text().splitlines()]
        started = {words[0]: words for words in lines if words[1] == "symmetric-run"}
        assert set(started) == {"n1", "n2"} and started["n1"][1:] == started["n2"][1:]
        assert started["n1"][3].startswith(f"{cluster.address}:")
        assert started["n1"][5] == "2"  # --min-nodes

    def test_a_job_whose_time_is_up_returns_to_the_queue(self, cluster, checkout):
        number = cluster.submit(
            *("--nodes=1", "--cpus-per-task=2", "--gpus-per-task=0", SBATCH),
            **job(checkout, STAND_IN="60"),
        )
        log = checkout / "ray.log"
        wait_until(lambda: log.exists() and "symmetric-run" in log.read_text(), 60, "Ray starts")
        # As Slurm does three minutes before the end, to the script alone.
        cluster.command("scancel", "--batch", "--signal=USR1", number)
        try:
            wait_until(lambda: "Restarts=1" in cluster.shown(number), 60, "the job is queued again")
        finally:
            cluster.command("scancel", number)
