"""The files under ``cluster/`` agree with each other and with the code."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import signal
import subprocess
import zipfile

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package

from jointsampler.errors import UserError
from tests.cluster.checks import CHECKS
from tests.cluster.files import (
    AWS,
    CLUSTER,
    COMPOSE,
    DOCKERFILE,
    GCP,
    MLFLOW_PODS,
    RAYCLUSTER,
    RAYJOB,
    ROOT,
    SBATCH,
    SHARED,
    SHIP_LOGS,
    STORAGE,
    containers,
    manifests,
    parsed,
    pods,
    ray_pods,
    read,
    shell_blocks,
)
from tests.ray.nodes import wait_until
from workflows import estimate, forecast, report

# Secrets ------------------------------------------------------------------------------------------


def test_every_cluster_asks_for_a_token():
    assert read(RAYCLUSTER)["spec"]["authOptions"]["mode"] == "token"
    for path in (AWS, GCP):
        config = read(path)
        assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
        assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_passwords_are_named_and_never_given():
    secret = re.compile(r"PASSWORD|TOKEN$|SECRET")
    variables = [v for container in containers() for v in container.get("env", [])]
    hidden = [v for v in variables if secret.search(v["name"])]
    assert len(hidden) > 6 and all("valueFrom" in v for v in hidden)
    services = read(COMPOSE)["services"].values()
    given = [v for s in services for k, v in s["environment"].items() if secret.search(k)]
    assert len(given) == 4 and all(re.fullmatch(r"\$\{\w+:\?\}", v) for v in given)
    assert (CLUSTER / "mlflow" / ".gitignore").read_text().split() == [".env", "tls/"]


def test_the_readme_makes_every_secret_that_a_pod_needs():
    made = set()
    for block in shell_blocks():
        for command in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"kubectl create secret generic (\S+)", command):
                made |= {
                    (found[1], key) for key in re.findall(r"--from-literal=([\w-]+)=", command)
                }
    variables = [v for container in containers() for v in container.get("env", [])]
    references = [v["valueFrom"]["secretKeyRef"] for v in variables if "valueFrom" in v]
    assert {(r["name"], r["key"]) for r in references} == made


def test_the_hubs_token_is_a_reference_everywhere():
    for pod in ray_pods():
        (token,) = [v for v in pod["containers"][0]["env"] if v["name"] == "HF_TOKEN"]
        assert token["valueFrom"]["secretKeyRef"]["optional"]
    for path in (AWS, GCP):
        config = read(path)
        (option,) = [o for o in config["docker"]["run_options"] if "HF_TOKEN" in o]
        name, place = option.removeprefix("-e ").split("=")
        assert (
            name == "HF_TOKEN_PATH" and config["file_mounts"][place] == "~/.cache/huggingface/token"
        )
    assert "export HF_TOKEN_PATH=" in SBATCH.read_text()
    for path in CHECKS:
        assert not re.search(r"HF_TOKEN=", path.read_text()), path


def test_the_ray_clusters_find_the_mlflow_server_and_are_let_in():
    head = pods(read(RAYCLUSTER))[0]["containers"][0]
    (uri,) = [v["value"] for v in head["env"] if v["name"] == "MLFLOW_TRACKING_URI"]
    host = uri.removeprefix("http://")
    things = {(t["kind"], t["metadata"]["name"]): t for t in manifests(MLFLOW_PODS)}
    service = things["Service", "mlflow"]["spec"]
    assert host == f"mlflow:{service['ports'][0]['port']}"
    deployment = things["Deployment", "mlflow"]["spec"]["template"]
    assert service["selector"].items() <= deployment["metadata"]["labels"].items()
    command = deployment["spec"]["containers"][0]["command"]
    (allowed,) = [a.partition("=")[2] for a in command if a.startswith("--allowed-hosts=")]
    for name_ in (host, "mlflow.jointsampler.svc.cluster.local:5000", "localhost:5000"):
        assert any(fnmatch.fnmatch(name_, pattern) for pattern in allowed.split(","))
    # Both servers are one server.
    composed = read(COMPOSE)["services"]["mlflow"]["command"]
    names, theirs = ([a.partition("=")[0] for a in words] for words in (command, composed))
    assert [*names, "--uvicorn-opts"] == theirs  # TLS, where it leaves the machine
    database = things["Service", "mlflow-postgres"]["spec"]["ports"][0]["port"]
    assert any(f"@mlflow-postgres:{database}/" in argument for argument in command)


# Logs ---------------------------------------------------------------------------------------------


def test_a_nodes_logs_are_copied_while_it_runs_and_when_it_ends(tmp_path):
    logs, kept = tmp_path / "ray/session_1/logs", tmp_path / "shared/node"
    (logs / "events").mkdir(parents=True)
    (logs / "events/a.log").write_text("first\n")
    job = subprocess.Popen([SHIP_LOGS, tmp_path / "ray", kept], start_new_session=True)
    try:
        copy = kept / "session_1/events/a.log"
        wait_until(copy.exists, 10, "the first copy")
        (logs / "events/a.log").write_text("first\nlast\n")
        job.send_signal(signal.SIGTERM)
        assert job.wait(10) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert copy.read_text() == "first\nlast\n"
    assert copy.stat().st_mode & 0o077 == 0


def test_the_logs_of_every_node_go_to_the_shared_folder():
    for pod in ray_pods():
        (sidecar,) = pod["initContainers"]
        assert sidecar["restartPolicy"] == "Always"  # beside Ray, not before it
        assert sidecar["command"][0] == SHIP_LOGS.name and sidecar["command"][1] == "/tmp/ray"
        assert sidecar["command"][2].startswith(f"{SHARED}/logs/")
        mounts = {m["mountPath"] for m in sidecar["volumeMounts"]}
        assert (
            mounts
            == {SHARED, "/tmp/ray"}
            <= {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        )
    for path in (AWS, GCP):
        for kind in ("head", "worker"):
            commands = read(path)[f"{kind}_start_ray_commands"]
            assert any(f"{SHIP_LOGS.name} /tmp/ray {SHARED}/logs/" in c for c in commands)
    assert f"cluster/{SHIP_LOGS.name}" in SBATCH.read_text()


# The files and the code ---------------------------------------------------------------------------


def workflow_commands() -> list[list[str]]:
    """The words of every ``python workflows/...`` in the README, and of the RayJob's entrypoint."""
    lines = [line for block in shell_blocks() for line in block.replace("\\\n", " ").splitlines()]
    lines = [line[line.index("python workflows/") :] for line in lines if "workflows/" in line]
    return [shlex.split(line) for line in [*lines, read(RAYJOB)["spec"]["entrypoint"]]]


def test_every_command_is_one_that_the_workflow_takes(monkeypatch):
    commands = workflow_commands()
    assert len(commands) == 5
    for python, script, *arguments in commands:
        assert python == "python" and (ROOT / script).is_file()
        _, out = parsed(arguments, monkeypatch)
        assert out.is_relative_to(SHARED)


@pytest.mark.parametrize("wrong", ["--configg x --out /o", "--out /o train.worker=4", ""])
def test_a_command_that_the_workflow_does_not_take_is_found(wrong, monkeypatch, capsys):
    with pytest.raises((SystemExit, UserError)):
        parsed(shlex.split(wrong), monkeypatch)


def test_the_job_asks_for_gpus_that_the_cluster_can_have_and_that_share_the_batch(monkeypatch):
    spec = read(RAYCLUSTER)["spec"]
    most = sum(
        group["maxReplicas"] * int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group, pod in zip(spec["workerGroupSpecs"], pods(read(RAYCLUSTER))[1:], strict=True)
    )
    config, _ = parsed(shlex.split(read(RAYJOB)["spec"]["entrypoint"])[2:], monkeypatch)
    assert config.teacher.device == "cuda"
    for wanted in (config.corpus.actors, config.train.workers, config.evaluate.actors):
        assert 0 < wanted <= most
    assert config.train.batch_size % config.train.workers == 0
    assert read(RAYJOB)["spec"]["backoffLimit"] > 0


def test_the_jobs_deadline_is_that_of_its_forecast(monkeypatch, tmp_path):
    """--plan prints the number; it grows with the run, where a fixed day would end a long one."""
    config, _ = parsed(shlex.split(read(RAYJOB)["spec"]["entrypoint"])[2:], monkeypatch)
    planned, devices = report.plan(config, tmp_path), forecast.Devices.of(config, {})
    expected = sum(s.seconds(devices) for s in forecast.forecasts(planned, None, devices))
    told = estimate.table(planned, None, devices)
    assert f"activeDeadlineSeconds: {estimate.deadline(expected)}" in told
    given = read(RAYJOB)["spec"]["activeDeadlineSeconds"]
    assert abs(given - estimate.deadline(expected)) <= 900
    assert estimate.deadline(34 * 3600) > 3 * 34 * 3600


def test_head_and_workers_mount_the_folder_of_out_and_of_the_downloads():
    (claim,) = manifests(STORAGE)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(read(RAYCLUSTER)):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        used = mounts[SHARED]["persistentVolumeClaim"]["claimName"]
        assert used == claim["metadata"]["name"]
        values = {v["name"]: v.get("value", "") for v in container["env"]}
        assert values["HF_HOME"].startswith(f"{SHARED}/")
        assert values["JOINTSAMPLER_CACHE"].startswith(f"{SHARED}/")
    for path in (AWS, GCP):
        config = read(path)
        options = config["docker"]["run_options"]
        assert f"-v {SHARED}:{SHARED}" in options
        assert any(o.startswith(f"-e HF_HOME={SHARED}/") for o in options)
        assert any(o.startswith(f"-e JOINTSAMPLER_CACHE={SHARED}/") for o in options)
        assert any(f"mountpoint -q {SHARED}" in c for c in config["initialization_commands"])


def test_the_image_has_the_code_where_the_job_takes_it_from():
    text = DOCKERFILE.read_text()
    (folder,) = re.findall(r"^WORKDIR (\S+)", text, re.MULTILINE)
    assert yaml.safe_load(read(RAYJOB)["spec"]["runtimeEnvYAML"])["working_dir"] == folder
    sources = re.findall(r"^COPY (?:--chown=\S+ )?(\S+) ", text, re.MULTILINE)
    copied = {"cluster/requirements.lock", "cluster/ship-logs.sh"}
    assert {"jointsampler", "workflows", "pyproject.toml"} | copied == set(sources)
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored and {f"!{source}" for source in sources} <= set(ignored)


def test_a_submitted_job_uploads_the_code_and_little_else(tmp_path):
    package = tmp_path / "upload.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=[])
    names = zipfile.ZipFile(package).namelist()
    for needed in (
        "workflows/pipeline.py",
        "workflows/cluster.py",
        "jointsampler/config/schema.py",
    ):
        assert needed in names
    left_out = re.compile(
        r"(\.git|\.venv|\.ci|cluster|tests|out)/|.*(__pycache__/|\.env$|mlflow\.db)"
    )
    assert [n for n in names if left_out.match(n)] == []
    assert package.stat().st_size < 50e6
