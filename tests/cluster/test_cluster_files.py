"""The files under ``cluster/``: valid, agreeing with each other, and true to the code.

No cluster, container or network is needed, so nothing here proves that a file
works on one; it proves that no key, flag or name in them is made up. Every check
is shown to bite, on a copy of the file with one thing wrong.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import click
import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import ray.autoscaler._private.util as launcher
import yaml
from mlflow.cli import server as mlflow_server
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import create_package
from ray.scripts.scripts import start as ray_start
from ray.scripts.symmetric_run import symmetric_run

from jointsampler.config import Config, load_config
from jointsampler.config.load import known_keys
from jointsampler.errors import UserError
from workflows import cli as run_cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAYCLUSTER, RAYJOB = CLUSTER / "kuberay/raycluster.yaml", CLUSTER / "kuberay/rayjob.yaml"
STORAGE, MLFLOW_PODS = CLUSTER / "kuberay/storage.yaml", CLUSTER / "mlflow/kubernetes.yaml"
AWS, GCP = CLUSTER / "launcher/aws.yaml", CLUSTER / "launcher/gcp.yaml"
COMPOSE, DOCKERFILE = CLUSTER / "mlflow/compose.yaml", CLUSTER / "docker/Dockerfile"
SBATCH, README = CLUSTER / "slurm/pipeline.sbatch", CLUSTER / "README.md"
SHARED = "/shared"

# What the validators do not know --------------------------------------------------------------


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object that has no other keys."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


ANY, TEXT, FLAG = {"type": "object"}, {"type": "string"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
START_OPTIONS = {option.strip("-") for parameter in ray_start.params for option in parameter.opts}
START_PARAMS = {
    "type": "object",
    "propertyNames": {"enum": sorted(START_OPTIONS)},
    "additionalProperties": TEXT,
}
NODES = {"rayStartParams": START_PARAMS, "template": ANY}  # the template: Kubernetes's own schema
# The fields of KubeRay 1.7's custom resources that make sense here; it publishes no package with them.
RAYCLUSTER_SPEC = closed(
    "rayVersion",
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=closed("mode", mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=closed(requests=ANY, limits=ANY),
    ),
    headGroupSpec=closed("template", **NODES),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            *("groupName", "minReplicas", "maxReplicas", "template"),
            **NODES,
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
        ),
    },
)
RAYJOB_SPEC = closed(
    "entrypoint",
    "rayClusterSpec",
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    submitterPodTemplate=ANY,
    submitterConfig=closed(backoffLimit=COUNT),
    rayClusterSpec=RAYCLUSTER_SPEC,
)
RUNTIME_ENV = closed(working_dir=TEXT, env_vars=ANY, pip=ANY, excludes=ANY)
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


# The checks: each says what is wrong with a file -------------------------------------------------


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
        spec = spec["rayClusterSpec"]
    else:
        yield from against(RAYCLUSTER_SPEC, spec)
    groups = spec.get("workerGroupSpecs", [])
    for group in groups:
        low, now, high = (group.get(f"{name}eplicas") for name in ("minR", "r", "maxR"))
        if None in (low, now, high) or not low <= now <= high:
            yield f"{group['groupName']}: not minReplicas <= replicas <= maxReplicas"
    for group in [spec["headGroupSpec"], *groups]:
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}}
        yield from wrong_in_kubernetes_object({**wrapped, "template": group["template"]})


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


def shell_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def wrong_in_readme(text: str) -> Iterator[str]:
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from findings("bash", "-n", text=block)
    for key in set(re.findall(r"\b([a-z]+\.[a-z_]+)=", text)) - set(known_keys()):
        yield f"no such key of the configuration: {key}"
    linked = re.findall(r"\]\(([a-z][\w./-]*)\)", text)
    for path in re.findall(r"cluster/[\w./-]*[\w/]", text) + [f"cluster/{name}" for name in linked]:
        if not (ROOT / path).exists():
            yield f"no such file: {path}"


CHECKS = {
    **dict.fromkeys([RAYCLUSTER, RAYJOB, STORAGE, MLFLOW_PODS], wrong_in_manifests),
    **dict.fromkeys([AWS, GCP], wrong_in_launcher_file),
    COMPOSE: wrong_in_compose_file,
    DOCKERFILE: wrong_in_dockerfile,
    SBATCH: wrong_in_sbatch,
    README: wrong_in_readme,
}


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


# The files among themselves ----------------------------------------------------------------------


def pods(thing: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod specs in an object: Ray's head first, then its workers."""
    spec = thing.get("spec", {})
    spec = spec.get("rayClusterSpec", spec)
    groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", []), spec, thing]
    return [group["template"]["spec"] for group in groups if "template" in group]


def containers() -> list[dict[str, Any]]:
    things = [thing for path in (RAYCLUSTER, RAYJOB, MLFLOW_PODS) for thing in manifests(path)]
    return [container for thing in things for pod in pods(thing) for container in pod["containers"]]


def manifests(path: Path) -> list[dict[str, Any]]:
    return documents(path.read_text())


def required(package: str) -> Requirement:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(r for r in map(Requirement, project["dependencies"]) if r.name == package)


def pattern_in_files(pattern: str) -> set[str]:
    return {found for path in CHECKS for found in re.findall(pattern, path.read_text())}


def test_ray_has_one_version_everywhere_and_pyproject_admits_it():
    where = [r"rayproject/ray:([\d.]+)-", r"ray\[default\]==([\d.]+)'", r'rayVersion: "([\d.]+)"']
    versions = [pattern_in_files(pattern) for pattern in where]
    assert versions[0] == versions[1] == versions[2] and len(versions[0]) == 1
    assert required("ray").specifier.contains(versions[0].pop())


def test_torch_of_the_image_and_the_mlflow_server_are_versions_that_pyproject_admits():
    (torch,) = re.findall(r"ARG TORCH_VERSION=(\S+)", DOCKERFILE.read_text())
    (mlflow,) = pattern_in_files(r"ghcr.io/mlflow/mlflow:v([\d.]+)-full")
    assert required("torch").specifier.contains(torch)
    assert required("mlflow").specifier.contains(mlflow)


def test_all_ray_nodes_run_the_image_whose_build_the_dockerfile_names():
    (image,) = re.findall(r"docker push (\S+)", DOCKERFILE.read_text())
    used = [c["image"] for c in containers() if c["name"].startswith("ray-")]
    used += [read(path)["docker"]["image"] for path in (AWS, GCP)]
    assert len(used) == 6 and set(used) == {image}


def test_the_job_has_the_cluster_of_raycluster_yaml():
    assert read(RAYJOB)["spec"]["rayClusterSpec"] == read(RAYCLUSTER)["spec"]


def test_gpu_nodes_start_from_none_and_the_head_holds_only_drivers():
    spec = read(RAYCLUSTER)["spec"]
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "train_driver" in head["rayStartParams"]["resources"]
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0) and workers["maxReplicas"] > 0
    assert spec["autoscalerOptions"]["version"] == "v2" and spec["enableInTreeAutoscaling"]
    for path in (AWS, GCP):
        config = read(path)
        kinds = config["available_node_types"]
        assert kinds["head"]["resources"] == {"CPU": 0, "GPU": 0, "train_driver": 1}
        assert kinds["gpu"]["resources"]["GPU"] == 1 and kinds["gpu"]["min_workers"] == 0
        assert kinds["gpu"]["max_workers"] == config["max_workers"] == workers["maxReplicas"]
        assert "spot" in str(kinds["gpu"]["node_config"]).lower()
        assert "spot" not in str(kinds["head"]["node_config"]).lower()


def test_ray_pods_get_what_they_request_and_are_not_restarted_in_place():
    for pod in pods(read(RAYCLUSTER)):
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_every_cluster_asks_for_a_token():
    assert read(RAYCLUSTER)["spec"]["authOptions"]["mode"] == "token"
    for path in (AWS, GCP):
        config = read(path)
        assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
        assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_passwords_are_named_and_never_given():
    secret = re.compile(r"PASSWORD|TOKEN$|SECRET")
    variables = [v for container in containers() for v in container.get("env", [])]
    hidden = [v for v in variables if secret.search(v["name"])]
    assert len(hidden) > 6 and all("valueFrom" in v for v in hidden)
    services = read(COMPOSE)["services"].values()
    given = [v for s in services for k, v in s["environment"].items() if secret.search(k)]
    assert len(given) == 4 and all(re.fullmatch(r"\$\{\w+:\?\}", v) for v in given)
    assert (CLUSTER / "mlflow" / ".gitignore").read_text().split() == [".env"]


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
    assert [a.partition("=")[0] for a in command] == [a.partition("=")[0] for a in composed]
    database = things["Service", "mlflow-postgres"]["spec"]["ports"][0]["port"]
    assert any(f"@mlflow-postgres:{database}/" in argument for argument in command)


# The files and the code ---------------------------------------------------------------------------


def parsed(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Path]:
    """(the configuration, the out folder) that the pipeline reads from its arguments."""
    monkeypatch.chdir(ROOT)
    args = run_cli.parser().parse_intermixed_args(["pipeline", *argv])
    return load_config(run_cli.config_file(args.config), args.overrides), Path(args.out)


def workflow_commands() -> list[list[str]]:
    """The words of every ``python workflows/...`` in the README, and of the RayJob's entrypoint."""
    lines = [line for block in shell_blocks() for line in block.replace("\\\n", " ").splitlines()]
    lines = [line[line.index("python workflows/") :] for line in lines if "workflows/" in line]
    return [shlex.split(line) for line in [*lines, read(RAYJOB)["spec"]["entrypoint"]]]


def test_every_command_is_one_that_the_workflow_takes(monkeypatch):
    commands = workflow_commands()
    assert len(commands) == 4
    for python, script, *arguments in commands:
        assert python == "python" and (ROOT / script).is_file()
        _, out = parsed(arguments, monkeypatch)
        assert out.is_relative_to(SHARED)


@pytest.mark.parametrize("wrong", ["--configg x --out /o", "--out /o train.worker=4", ""])
def test_a_command_that_the_workflow_does_not_take_is_found(wrong, monkeypatch, capsys):
    with pytest.raises((SystemExit, UserError)):
        parsed(shlex.split(wrong), monkeypatch)


def test_the_job_asks_for_gpus_that_the_cluster_can_have_and_that_share_the_batch(monkeypatch):
    most = read(RAYCLUSTER)["spec"]["workerGroupSpecs"][0]["maxReplicas"]
    config, _ = parsed(shlex.split(read(RAYJOB)["spec"]["entrypoint"])[2:], monkeypatch)
    assert config.teacher.device == "cuda"
    for wanted in (config.corpus.actors, config.train.workers, config.evaluate.actors):
        assert 0 < wanted <= most
    assert config.train.batch_size % config.train.workers == 0
    assert read(RAYJOB)["spec"]["backoffLimit"] > 0


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
    assert {"jointsampler", "workflows", "pyproject.toml"} == set(sources)
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


# The Slurm script, run with stand-ins for Slurm and Ray --------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on three nodes; srun and scontrol write down what they are asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool, answer in {
        "srun": '[[ $* != *symmetric-run* ]] || eval "${PIPELINE:-}"',
        "scontrol": ":",
        "hostname": "echo 10.0.0.7 10.1.0.7",
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
    slurm["PIPELINE"] = 'stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH"; echo $RAY_AUTH_MODE $RAY_ADDRESS'
    done = subprocess.run(
        ["bash", str(SBATCH), "train.k_max=4"],
        env=slurm, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["600", "64", "token", "10.0.0.7:6379"]
    assert not token.exists()
    *_, cleaned, started = calls(slurm)
    assert cleaned == ["srun", "ray", "stop", "--force"]
    words = started[started.index("symmetric-run") + 1 :]
    split = words.index("--")
    assert words[:4] == ["--address", "10.0.0.7:6379", "--min-nodes", "3"]
    assert {"--num-cpus=16", "--num-gpus=4"} <= set(words[:split])
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
    assert calls(slurm)[-1] == ["scontrol", "requeue", "77"]


def test_slurm_fails_where_the_pipeline_fails_and_where_no_shared_folder_is_named(slurm):
    run = {"env": slurm, "capture_output": True, "text": True, "timeout": 20, "check": False}
    slurm["PIPELINE"] = "exit 2"
    assert subprocess.run(["bash", str(SBATCH)], **run).returncode == 2
    del slurm["SHARED"]
    done = subprocess.run(["bash", str(SBATCH)], **run)
    assert done.returncode != 0 and "SHARED=" in done.stderr
