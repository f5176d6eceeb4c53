"""The files under ``cluster/`` are valid.

No cluster, container or network is needed, so nothing here proves that a file
works on one; it proves that no key, flag or name in them is made up. Every check
is shown to bite, on a copy of the file with one thing wrong.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.checks import CHECKS
from tests.cluster.files import (
    AWS,
    CLUSTER,
    COMPOSE,
    DOCKERFILE,
    GCP,
    LOCK,
    MLFLOW_PODS,
    NETWORK,
    RAYCLUSTER,
    RAYJOB,
    README,
    REDIS,
    SBATCH,
    SHIP_LOGS,
    STORAGE,
    manifests,
)


def name(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


@pytest.mark.parametrize("path", CHECKS, ids=name)
def test_every_file_is_valid(path):
    assert list(CHECKS[path](path.read_text())) == []


def test_no_file_is_left_unchecked():
    files = {path for path in CLUSTER.rglob("*") if path.is_file() and path.name != ".gitignore"}
    assert files == set(CHECKS)


MISTAKES = [
    (RAYCLUSTER, "enableInTreeAutoscaling", "enableInTreeAutoscalling", "enableInTreeAutoscalling"),
    (RAYCLUSTER, "mode: token", "mode: tokens", "tokens"),
    (RAYCLUSTER, "version: v2", "version: v3", "v3"),
    (RAYCLUSTER, "minReplicas: 0", "minReplica: 0", "minReplica"),
    (RAYCLUSTER, "minReplicas: 0", "minReplicas: 5", "minReplicas <= replicas"),
    (RAYCLUSTER, 'num-cpus: "0"', 'num-cpu: "0"', "num-cpu"),
    (RAYCLUSTER, 'num-cpus: "0"', "num-cpus: 0", "not of type 'string'"),
    (RAYCLUSTER, "containerPort: 6379", "containerPortt: 6379", "'containerPort' is"),
    (RAYCLUSTER, "emptyDir: {medium: Memory, sizeLimit: 8Gi}", "emptyDir: {size: 8Gi}", "size"),
    (RAYCLUSTER, "operator: Exists,", "operater: Exists,", "operater"),
    (RAYCLUSTER, "{name: shm, mountPath:", "{name: shm, mountpath:", "'mountPath' is"),
    (RAYCLUSTER, "metadata:\n  name", "metadata:\n  name: a\n  name", "given twice"),
    (RAYCLUSTER, "redisAddress:", "redisAdress:", "redisAdress"),
    (
        RAYCLUSTER,
        "valueFrom: {secretKeyRef: {name: redis",
        "valueFrom: {secretRef: {name: redis",
        "secretRef",
    ),
    (RAYCLUSTER, "drop: [ALL]", "dropp: [ALL]", "dropp"),
    (RAYCLUSTER, "groupName: gpu8", "groupName: gpu", "two worker groups"),
    (RAYCLUSTER, "annotations: &stays", "annotation: &stays", "annotation"),
    (NETWORK, "- podSelector:", "- podSelecter:", "podSelecter"),
    (REDIS, "serviceName", "servicename", "servicename"),
    (SHIP_LOGS, "[[ -d $logs ]]", "[[ -d $logs ]", "error"),
    (LOCK, "ray==", "ray>=", "not one version: ray>="),
    (RAYJOB, "activeDeadlineSeconds: 2700", "activeDeadlineSeconds: 0", "minimum"),
    (RAYJOB, "shutdownAfterJobFinishes: true", "suspend: false", "without shutdown"),
    (RAYJOB, "backoffLimit: 3", "backofLimit: 3", "backofLimit"),
    (RAYJOB, "submissionMode: K8sJobMode", "submissionMode: K8sMode", "K8sMode"),
    (RAYJOB, "working_dir:", "workingdir:", "workingdir"),
    (RAYJOB, "runAsNonRoot", "runAsNonroot", "runAsNonroot"),
    (RAYJOB, "rayVersion:", "rayversion:", "rayversion"),
    (STORAGE, "accessModes", "accessMode", "accessMode"),
    (MLFLOW_PODS, "startupProbe", "startUpProbe", "startUpProbe"),
    (MLFLOW_PODS, "secretKeyRef: {name: mlflow, key: admin", "secretRef: {key: admin", "secretRef"),
    (MLFLOW_PODS, "--app-name=basic-auth", "--app-name=basic", "basic"),
    (AWS, "idle_timeout_minutes", "idle_timeout_minute", "idle_timeout_minute"),
    (AWS, "run_options:", "run_option:", "run_option"),
    (AWS, "min_workers: 0", "min_worker: 0", "min_worker"),
    (AWS, "min_workers: 0", "min_workers: 5", "min_workers"),
    (AWS, "InstanceType: m7i", "InstanceTypee: m7i", "InstanceTypee"),
    (AWS, "head_node_type: head", "head_node_type: heat", "head_node_type"),
    (GCP, "project_id:", "project:", "provider key project"),
    (GCP, "      scheduling:", "      schedule:", "schedule"),
    (GCP, "--dashboard-host", "--dashbord-host", "dashbord-host"),
    (COMPOSE, "depends_on:", "depend_on:", "depend_on"),
    (COMPOSE, "condition: service_healthy", "condition: healthy", "healthy"),
    (COMPOSE, "--artifacts-destination", "--artifact-destination", "artifact-destination"),
    (DOCKERFILE, "WORKDIR /home", "WORKDIR home", "DL3000"),
    (DOCKERFILE, "USER 1000", "USER root", "DL3002"),
    (DOCKERFILE, "--constraint /tmp/requirements.lock torch", "torch", "DL3013"),
    (DOCKERFILE, "COPY pyproject.toml", "COPPY pyproject.toml", "unexpected"),
    (SBATCH, "(umask 077 &&", "((umask 077 &&", "error"),
    (SBATCH, '--out "$out"', "--out $out", "SC2086"),
    (SBATCH, "--gpus-per-task=4", "--gpu-per-task=4", "--gpu-per-task"),
    (README, "train.workers=4", "train.worker=4", "train.worker"),
    (README, "cluster/kuberay/storage.yaml", "cluster/kuberay/storag.yaml", "storag.yaml"),
    (README, "done > .env)", "done > .env", "error"),
]


@pytest.mark.parametrize(
    ("path", "right", "wrong", "told"), MISTAKES, ids=[f"{name(m[0])}: {m[2]}" for m in MISTAKES]
)
def test_a_mistake_in_a_file_is_found(path, right, wrong, told):
    text = path.read_text()
    assert right in text
    try:
        found = "\n".join(CHECKS[path](text.replace(right, wrong, 1)))
    except yaml.YAMLError as error:
        found = str(error)
    assert told in found


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize(
    "path", [RAYCLUSTER, RAYJOB, STORAGE, NETWORK, REDIS, MLFLOW_PODS], ids=name
)
def test_kubectl_reads_what_the_tests_read(path):
    """Its YAML differs from Python's: anchors, quotes, numbers."""
    told = subprocess.run(
        ["kubectl", "label", "--local", "--filename", path, "any=one", "--output=json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    decoder, text, read = json.JSONDecoder(), told.stdout.strip(), []
    while text:
        thing, end = decoder.raw_decode(text)
        read += thing["items"] if thing["kind"] == "List" else [thing]
        text = text[end:].lstrip()
    for thing in read:
        del thing["metadata"]["labels"]["any"]
        if not thing["metadata"]["labels"]:
            del thing["metadata"]["labels"]
    assert read == manifests(path)
