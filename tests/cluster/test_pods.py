"""The pods and machines of a cluster: what they offer Ray, and what they may do."""

from __future__ import annotations

import re

from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as as_ray_reads_it,
)

from tests.cluster.files import (
    AWS,
    COMPOSE,
    DOCKERFILE,
    GCP,
    MLFLOW_PODS,
    RAYCLUSTER,
    RAYJOB,
    REDIS,
    containers,
    manifests,
    pods,
    ray_pods,
    read,
)


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
