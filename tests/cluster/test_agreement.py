"""The files under ``cluster/`` agree with each other, with the lock file and with the code."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import signal
import subprocess
import zipfile
from collections.abc import Iterator

import pytest
import yaml
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as as_ray_reads_it,
)

from jointsampler.errors import UserError
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
    PROJECT,
    RAYCLUSTER,
    RAYJOB,
    README,
    REDIS,
    ROOT,
    SBATCH,
    SHARED,
    SHIP_LOGS,
    STORAGE,
    containers,
    manifests,
    parsed,
    pods,
    read,
    shell_blocks,
)
from tests.ray.nodes import wait_until
from workflows import estimate, forecast, report

# Versions -----------------------------------------------------------------------------------------


def locked() -> dict[str, set[str]]:
    """Package -> its versions; more than one where Pythons differ."""
    found: dict[str, set[str]] = {}
    for line in LOCK.read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            (version,) = [s.version for s in requirement.specifier]
            found.setdefault(requirement.name, set()).add(version)
    return found


def test_the_lock_has_every_dependency_in_a_version_that_pyproject_admits():
    assert "make lock" in LOCK.read_text().splitlines()[1]
    everything = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        everything += extra
    versions = locked()
    for requirement in map(Requirement, everything):
        for version in versions[requirement.name.lower()]:
            assert requirement.specifier.contains(version), requirement
    for package in ("ray", "torch", "deepspeed"):
        assert len(versions[package]) == 1


def other_versions(text: str) -> Iterator[str]:
    """What a file says of Ray, torch, DeepSpeed or MLflow that is not the lock's."""
    versions = locked()
    named = [("ray", v) for v in re.findall(r"rayproject/ray:([\d.]+)-", text)]
    named += [
        ("ray", v) for v in re.findall(r"(?:rayVersion: \"|\bRay )(\d+\.\d+(?:\.\d+)?)", text)
    ]
    named += re.findall(
        r"\b(ray|torch|deepspeed|mlflow)(?:\[[\w,]+\])?\s*[=~<>]=\s*([\d.]+\d)", text
    )
    named += [("mlflow", v) for v in re.findall(r"mlflow:v(\d+\.\d+)\.\d+-", text)]
    for package, version in named:
        (mine,) = versions[package]
        if mine != version and not mine.startswith(f"{version}."):
            yield f"{package} {version}, locked is {mine}"


@pytest.mark.parametrize("path", sorted(set(CHECKS) - {LOCK}), ids=lambda p: p.name)
def test_a_cluster_file_names_no_version_but_the_locked_one(path):
    assert list(other_versions(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "FROM rayproject/ray:2.59.0-py312-gpu",
        'rayVersion: "2.61.0"',
        "pip install 'ray[default]==2.59.0'",
        "pip install torch==2.12.0",
        "deepspeed>=0.18.2",
        "image: ghcr.io/mlflow/mlflow:v3.16.0-full",
        "on Ray 2.59",
    ],
)
def test_another_version_is_found(text):
    assert list(other_versions(text))


def test_image_bare_nodes_and_client_install_from_the_lock():
    text = DOCKERFILE.read_text()
    assert "COPY cluster/requirements.lock /tmp/requirements.lock" in text
    pips = re.findall(r"pip install .*", text)
    assert len(pips) == 2 and all("--constraint /tmp/requirements.lock" in line for line in pips)
    for path in (README, SBATCH, AWS, GCP):
        lines = re.findall(r".*(?:pip install.*'ray|make install).*", path.read_text())
        assert lines and all("cluster/requirements.lock" in line for line in lines), path
    made = subprocess.run(
        ["make", "--dry-run", "install", "LOCK=cluster/requirements.lock", "VENV=/nowhere"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '--constraint cluster/requirements.lock --editable ".[dev]"' in made.stdout


# The clusters -------------------------------------------------------------------------------------


def ray_pods() -> list[dict]:
    return [pod for path in (RAYCLUSTER, RAYJOB) for pod in pods(read(path))]


def test_all_ray_nodes_run_the_image_whose_build_the_dockerfile_names():
    (image,) = re.findall(r"docker push (\S+)", DOCKERFILE.read_text())
    used = [c["image"] for c in containers() if c["name"].startswith("ray-")]
    used += [read(path)["docker"]["image"] for path in (AWS, GCP)]
    used += [c["image"] for pod in ray_pods() for c in pod["initContainers"]]
    assert len(used) == 14 and set(used) == {image}


def test_the_job_has_the_cluster_of_raycluster_yaml():
    """All but Redis: each attempt of a job is a cluster of its own, whose driver dies with its head."""
    stays = read(RAYCLUSTER)["spec"]
    assert stays.pop("gcsFaultToleranceOptions")["redisAddress"] == "redis:6379"
    assert read(RAYJOB)["spec"]["rayClusterSpec"] == stays


def test_rays_autoscaler_reads_a_head_for_drivers_and_pods_of_one_and_eight_gpus():
    """By the function that Ray's autoscaler itself reads a RayCluster with."""
    cluster = read(RAYCLUSTER)
    cluster["metadata"]["namespace"] = "jointsampler"
    config = as_ray_reads_it(cluster)
    kinds = config["available_node_types"]
    assert config["idle_timeout_minutes"] == 10
    assert kinds["headgroup"]["resources"].items() >= {"CPU": 0, "train_driver": 1}.items()
    assert "GPU" not in kinds["headgroup"]["resources"]
    assert {name: kinds[name]["resources"]["GPU"] for name in ("gpu", "gpu8")} == {
        "gpu": 1,
        "gpu8": 8,
    }
    for kind in ("gpu", "gpu8"):
        assert kinds[kind]["min_workers"] == 0
    assert kinds["gpu"]["max_workers"] > 0 == kinds["gpu8"]["max_workers"]


def test_launched_gpu_nodes_start_from_none_and_the_head_holds_only_drivers():
    (most, _) = [g["maxReplicas"] for g in read(RAYCLUSTER)["spec"]["workerGroupSpecs"]]
    spec = read(RAYCLUSTER)["spec"]
    assert spec["autoscalerOptions"]["version"] == "v2" and spec["enableInTreeAutoscaling"]
    for path in (AWS, GCP):
        config = read(path)
        kinds = config["available_node_types"]
        assert kinds["head"]["resources"] == {"CPU": 0, "GPU": 0, "train_driver": 1}
        assert kinds["gpu"]["resources"]["GPU"] == 1 and kinds["gpu"]["min_workers"] == 0
        assert kinds["gpu"]["max_workers"] == config["max_workers"] == most
        assert "spot" in str(kinds["gpu"]["node_config"]).lower()
        assert "spot" not in str(kinds["head"]["node_config"]).lower()


def gigabytes(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity[:-2]) * 2**30 / 1e9


def test_ray_pods_get_what_they_request_and_are_not_restarted_in_place():
    for pod in ray_pods():
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_rays_object_store_fits_into_shared_memory_and_leaves_room_for_nccl():
    """Ray's own choice, three tenths of the memory, would not fit, and go to the disk."""
    spec = read(RAYCLUSTER)["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        store = int(group["rayStartParams"]["object-store-memory"]) / 1e9
        (shared,) = [v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm"]
        memory = gigabytes(pod["containers"][0]["resources"]["limits"]["memory"])
        assert 2 * store <= gigabytes(shared["sizeLimit"]) <= memory / 2


def test_no_drain_that_saves_money_takes_a_pod_of_a_run():
    for path in (RAYCLUSTER, RAYJOB):
        spec = read(path)["spec"]
        spec = spec.get("rayClusterSpec", spec)
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            notes = group["template"]["metadata"]["annotations"]
            assert notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
            assert notes["karpenter.sh/do-not-disrupt"] == "true"


def all_pods() -> list[dict]:
    others = [
        pod for path in (REDIS, MLFLOW_PODS) for thing in manifests(path) for pod in pods(thing)
    ]
    assert len(others) == 3
    return ray_pods() + others


def test_no_process_of_a_pod_is_root_or_can_become_it():
    for pod in all_pods():
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    assert read(RAYCLUSTER)["spec"]["autoscalerOptions"]["securityContext"] == rights
    text = DOCKERFILE.read_text()
    assert "! grep -rq NOPASSWD /etc/sudoers" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "1000"
    for path in (AWS, GCP):
        options = read(path)["docker"]["run_options"]
        assert {"--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(options)
    for service in read(COMPOSE)["services"].values():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == [
            "no-new-privileges:true"
        ]


def test_only_the_heads_pod_speaks_to_kubernetes():
    for path in (RAYCLUSTER, RAYJOB):
        head, *workers = pods(read(path))
        assert "automountServiceAccountToken" not in head and len(workers) == 2
        assert all(pod["automountServiceAccountToken"] is False for pod in workers)


def test_the_image_has_compilers_for_the_optimizer():
    assert re.search(r"apt-get install .* gcc g\+\+", DOCKERFILE.read_text())


# Who may speak to whom ------------------------------------------------------------------------------

HERE = "jointsampler"
PEOPLE = {
    "head": (HERE, {"ray.io/cluster": "a", "ray.io/node-type": "head"}),
    "worker": (HERE, {"ray.io/cluster": "a", "ray.io/node-type": "worker"}),
    "submitter": (HERE, {"job-name": "jointsampler"}),
    "mlflow": (HERE, {"app": "mlflow"}),
    "postgres": (HERE, {"app": "mlflow-postgres"}),
    "redis": (HERE, {"app": "redis"}),
    "operator": ("default", {"app.kubernetes.io/name": "kuberay-operator"}),
    "stranger": ("elsewhere", {"ray.io/cluster": "b", "app": "mlflow"}),
}


def selected(selector: dict, labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(e["operator"] == "Exists" for e in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        e["key"] in labels for e in expressions
    )


def admitted(source: str, target: str, port: int) -> bool:
    """By Kubernetes's rules: what any policy of the target admits; all, where none selects it."""
    (space, labels), (_, mine) = PEOPLE[source], PEOPLE[target]
    policies = [p["spec"] for p in manifests(NETWORK) if selected(p["spec"]["podSelector"], mine)]
    for rule in [rule for policy in policies for rule in policy.get("ingress", [])]:
        if "ports" in rule and port not in [p["port"] for p in rule["ports"]]:
            continue
        for peer in rule["from"]:
            anywhere = peer.get("namespaceSelector") == {}
            if (anywhere or space == HERE) and selected(peer["podSelector"], labels):
                return True
    return not policies


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *[("worker", "head", 6379), ("head", "worker", 10002), ("worker", "worker", 40000)],
        *[("submitter", "head", 8265), ("operator", "head", 8265)],
        *[("head", "redis", 6379), ("head", "mlflow", 5000), ("mlflow", "postgres", 5432)],
    ],
)
def test_who_must_speak_to_each_other_may(source, target, port):
    assert admitted(source, target, port)


@pytest.mark.parametrize("target", ["head", "worker", "mlflow", "postgres", "redis"])
@pytest.mark.parametrize("port", [5000, 5432, 6379, 8265, 10001])
def test_nobody_gets_in_from_another_namespace(target, port):
    assert not admitted("stranger", target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *[("worker", "postgres", 5432), ("submitter", "mlflow", 5000), ("submitter", "head", 6379)],
        *[("operator", "worker", 10002), ("mlflow", "head", 8265 + 1), ("mlflow", "redis", 6379)],
    ],
)
def test_who_need_not_speak_to_each_other_may_not(source, target, port):
    assert not admitted(source, target, port)


def test_mlflow_is_reached_inside_the_cluster_or_over_tls():
    services = [t for t in manifests(MLFLOW_PODS) if t["kind"] == "Service"]
    assert all(s["spec"].get("type", "ClusterIP") == "ClusterIP" for s in services)
    assert not [t for t in manifests(MLFLOW_PODS) if t["kind"] == "Ingress"]
    server = read(COMPOSE)["services"]["mlflow"]
    (options,) = [a for a in server["command"] if a.startswith("--uvicorn-opts=")]
    assert (
        "--ssl-certfile=/tls/server.crt" in options and "--ssl-keyfile=/tls/server.key" in options
    )
    assert "./tls:/tls:ro" in server["volumes"]
    assert (
        "postgres" in read(COMPOSE)["services"]
        and "ports" not in read(COMPOSE)["services"]["postgres"]
    )
    assert "http://10." not in README.read_text() and "http://HOST" not in README.read_text()


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
