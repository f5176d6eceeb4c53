"""The files under ``cluster/`` as the tests read them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jointsampler.config import Config, load_config
from workflows import cli as run_cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAYCLUSTER, RAYJOB = CLUSTER / "kuberay/raycluster.yaml", CLUSTER / "kuberay/rayjob.yaml"
STORAGE, NETWORK = CLUSTER / "kuberay/storage.yaml", CLUSTER / "kuberay/network.yaml"
REDIS, MLFLOW_PODS = CLUSTER / "kuberay/redis.yaml", CLUSTER / "mlflow/kubernetes.yaml"
AWS, GCP = CLUSTER / "launcher/aws.yaml", CLUSTER / "launcher/gcp.yaml"
COMPOSE, DOCKERFILE = CLUSTER / "mlflow/compose.yaml", CLUSTER / "docker/Dockerfile"
SBATCH, SHIP_LOGS = CLUSTER / "slurm/pipeline.sbatch", CLUSTER / "ship-logs.sh"
LOCK, README = CLUSTER / "requirements.lock", CLUSTER / "README.md"
SHARED = "/shared"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML in which the second of two equal keys is an error, not the winner."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"key given twice: {sorted(twice)}")
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(text, UniqueKeys))


def read(path: Path) -> dict[str, Any]:
    return documents(path.read_text())[0]


def pods(thing: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod specs in an object: Ray's head first, then its workers."""
    spec = thing.get("spec", {})
    spec = spec.get("rayClusterSpec", spec)
    groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", []), spec, thing]
    return [group["template"]["spec"] for group in groups if "template" in group]


def containers() -> list[dict[str, Any]]:
    things = [
        thing for path in (RAYCLUSTER, RAYJOB, REDIS, MLFLOW_PODS) for thing in manifests(path)
    ]
    return [container for thing in things for pod in pods(thing) for container in pod["containers"]]


def manifests(path: Path) -> list[dict[str, Any]]:
    return documents(path.read_text())


def shell_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def parsed(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Path]:
    """(the configuration, the out folder) that the pipeline reads from its arguments."""
    monkeypatch.chdir(ROOT)
    args = run_cli.parser().parse_intermixed_args(["pipeline", *argv])
    return load_config(run_cli.config_file(args.config), args.overrides), Path(args.out)


def ray_pods() -> list[dict]:
    return [pod for path in (RAYCLUSTER, RAYJOB) for pod in pods(read(path))]
