"""What is wrong with a file under ``cluster/``: each check yields sentences, none for a good file.

The schemas are those that the tools publish: Kubernetes's, Compose's and Ray's from their
packages, KubeRay's from ``kuberay.py``; commands are read by the tools' own parsers.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import click
import jsonschema
import kubernetes_validate
import ray.autoscaler
import ray.autoscaler._private.util as launcher
import yaml
from mlflow.cli import server as mlflow_server
from packaging.requirements import InvalidRequirement, Requirement
from ray.scripts.scripts import start as ray_start

from jointsampler.config.load import known_keys
from tests.cluster.files import (
    AWS,
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
    ROOT,
    SBATCH,
    SHIP_LOGS,
    STORAGE,
    documents,
    pods,
)
from tests.cluster.kuberay import (
    ANY,
    RAYCLUSTER_SPEC,
    RAYJOB_SPEC,
    RUNTIME_ENV,
    TEXT,
    closed,
    core_parts,
    pod_template,
    wrong_together,
)

# Ray leaves a node's settings to the provider; these are fields of EC2's RunInstances and of Compute
# Engine's Instance.
NODE_CONFIG = {
    "aws": {"InstanceType", "ImageId", "BlockDeviceMappings", "InstanceMarketOptions", "KeyName"}
    | {"IamInstanceProfile", "SubnetIds", "SecurityGroupIds"},
    "gcp": {"machineType", "disks", "metadata", "scheduling", "guestAccelerators"}
    | {"networkInterfaces", "serviceAccounts", "tags"},
}
SBATCH_OPTIONS = (
    {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-task", "exclusive", "time"}
    | {"signal", "requeue", "open-mode", "output", "partition", "account", "qos", "mem", "gres"}
)  # fmt: skip


def leaves(error: jsonschema.ValidationError) -> Iterator[str]:
    """What is really wrong, where an error only says that no alternative fits."""
    for inner in error.context or []:
        yield from leaves(inner)
    if not error.context:
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def against(schema: dict[str, Any], value: Any) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        yield from leaves(error)


def wrong_arguments(command: click.Command, arguments: list[str]) -> Iterator[str]:
    try:
        command.make_context(command.name, list(arguments))
    except click.ClickException as error:
        yield error.format_message()


def wrong_in_kubernetes_object(thing: dict[str, Any]) -> Iterator[str]:
    try:
        kubernetes_validate.validate(thing, "1.35", strict=True)
    except kubernetes_validate.ValidationError as error:
        yield from leaves(error)
    for pod in pods(thing):
        for container in pod["containers"]:
            command = container.get("command", [])
            if command[:2] == ["mlflow", "server"]:
                yield from wrong_arguments(mlflow_server, command[2:])


def wrong_in_ray_resource(thing: dict[str, Any]) -> Iterator[str]:
    spec = thing["spec"]
    if thing["kind"] == "RayJob":
        yield from against(RAYJOB_SPEC, spec)
        yield from against(RUNTIME_ENV, yaml.safe_load(spec.get("runtimeEnvYAML", "{}")))
        if "submitterPodTemplate" in spec:
            yield from wrong_in_kubernetes_object(pod_template(spec["submitterPodTemplate"]))
        spec = spec["rayClusterSpec"]
    else:
        yield from against(RAYCLUSTER_SPEC, spec)
    yield from wrong_together(thing)
    for part in core_parts(spec):
        yield from wrong_in_kubernetes_object(part)


def wrong_in_manifests(text: str) -> Iterator[str]:
    for thing in documents(text):
        if thing["apiVersion"] == "ray.io/v1":
            yield from against(closed(apiVersion=TEXT, kind=TEXT, metadata=ANY, spec=ANY), thing)
            yield from wrong_in_ray_resource(thing)
        else:
            yield from wrong_in_kubernetes_object(thing)


def wrong_in_launcher_file(text: str) -> Iterator[str]:
    config = documents(text)[0]
    try:
        launcher.validate_config(launcher.prepare_config(config))
    except (jsonschema.ValidationError, ValueError, RuntimeError) as error:
        yield str(error).splitlines()[0]
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    for key in config["provider"].keys() - schema["properties"]["provider"]["properties"].keys():
        yield f"unknown provider key {key}"
    for name, kind in config["available_node_types"].items():
        if kind.get("min_workers", 0) > kind.get("max_workers", config["max_workers"]):
            yield f"{name}: min_workers above max_workers"
        for key in kind["node_config"].keys() - NODE_CONFIG[config["provider"]["type"]]:
            yield f"{name}: unknown node_config key {key}"
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        _, found, arguments = command.partition("ray start ")
        if found:
            yield from wrong_arguments(ray_start, shlex.split(arguments))


def wrong_in_compose_file(text: str) -> Iterator[str]:
    schemas = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    compose = documents(text)[0]
    yield from against(schema, compose)
    for service in compose["services"].values():
        command = service.get("command", [])
        if command[:2] == ["mlflow", "server"]:
            yield from wrong_arguments(mlflow_server, command[2:])


def findings(*command: str, text: str) -> Iterator[str]:
    """The lines that a linter has to say of a text."""
    tool = shutil.which(command[0], path=f"{Path(sys.executable).parent}{os.pathsep}/bin:/usr/bin")
    assert tool is not None, f"{command[0]} is not installed: pip install -e '.[dev]'"
    done = subprocess.run(
        [tool, *command[1:]], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield from (done.stdout + done.stderr).splitlines()


def wrong_in_shell(text: str) -> Iterator[str]:
    yield from findings("bash", "-n", text=text)
    yield from findings("shellcheck", "--shell=bash", "--format=gcc", "-", text=text)


def wrong_in_sbatch(text: str) -> Iterator[str]:
    yield from wrong_in_shell(text)
    for line in re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE):
        option = re.fullmatch(r"--([a-z-]+)(=\S+)?", line)
        if not option or option[1] not in SBATCH_OPTIONS:
            yield f"not an option of sbatch: {line}"


def wrong_in_dockerfile(text: str) -> Iterator[str]:
    yield from findings("hadolint", "--no-color", "-", text=text)


def wrong_in_lock(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            yield f"not a requirement: {line}"
            continue
        if [s.operator for s in requirement.specifier] != ["=="]:
            yield f"not one version: {line}"


def wrong_in_readme(text: str) -> Iterator[str]:
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from findings("bash", "-n", text=block)
    for key in set(re.findall(r"\b([a-z]+\.[a-z_]+)=", text)) - set(known_keys()):
        yield f"no such key of the configuration: {key}"
    linked = re.findall(r"\]\(([a-z][\w./-]*)\)", text)
    for path in re.findall(r"(?<![\w/])cluster/[\w./-]*[\w/]", text) + [
        f"cluster/{name}" for name in linked
    ]:
        if not (ROOT / path).exists():
            yield f"no such file: {path}"


CHECKS = {
    **dict.fromkeys([RAYCLUSTER, RAYJOB, STORAGE, NETWORK, REDIS, MLFLOW_PODS], wrong_in_manifests),
    **dict.fromkeys([AWS, GCP], wrong_in_launcher_file),
    COMPOSE: wrong_in_compose_file,
    DOCKERFILE: wrong_in_dockerfile,
    SBATCH: wrong_in_sbatch,
    SHIP_LOGS: wrong_in_shell,
    LOCK: wrong_in_lock,
    README: wrong_in_readme,
}
