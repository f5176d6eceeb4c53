"""The fields of KubeRay's RayCluster and RayJob as JSON schemas.

KubeRay publishes its custom resource definitions in a Helm chart and as Go types, in no
Python or npm package. These schemas are written from the types of ``ray.io/v1`` (KubeRay
1.6 and 1.7), without the fields that need a feature gate. What a field holds of Kubernetes
itself, a pod template say, is checked against Kubernetes's own schema (``core_parts``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray.scripts.scripts import start as ray_start


def closed(*required: str, **properties: Any) -> dict[str, Any]:
    """A JSON schema of an object that has no other keys."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


ANY, TEXT, FLAG = {"type": "object"}, {"type": "string"}, {"type": "boolean"}
NUMBER, LIST = {"type": "number"}, {"type": "array"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
START_OPTIONS = {option.strip("-") for parameter in ray_start.params for option in parameter.opts}
START_PARAMS = {**TEXTS, "propertyNames": {"enum": sorted(START_OPTIONS)}}
NODES = {"rayStartParams": START_PARAMS, "template": ANY}
CREDENTIAL = closed(value=TEXT, valueFrom=ANY)
MANAGERS = {"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]}
RAYCLUSTER_SPEC = closed(
    "headGroupSpec",
    rayVersion=TEXT,
    suspend=FLAG,
    managedBy=MANAGERS,
    authOptions=closed(mode={"enum": ["token", "disabled"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    headServiceAnnotations=TEXTS,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        image=TEXT,
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
        resources=ANY,
        securityContext=ANY,
        env=LIST,
        envFrom=LIST,
        volumeMounts=LIST,
    ),
    gcsFaultToleranceOptions=closed(
        redisAddress=TEXT,
        redisUsername=CREDENTIAL,
        redisPassword=CREDENTIAL,
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=closed(
        *("template", "rayStartParams"),
        **NODES,
        headService=ANY,
        enableIngress=FLAG,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    ),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            *("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            **NODES,
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            scaleStrategy=closed(workersToDelete=LIST),
        ),
    },
)
RAYJOB_SPEC = closed(
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=TEXT,
    backoffLimit=COUNT,
    activeDeadlineSeconds={**COUNT, "minimum": 1},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    suspend=FLAG,
    jobId=TEXT,
    metadata=TEXTS,
    managedBy=MANAGERS,
    clusterSelector=TEXTS,
    submitterPodTemplate=ANY,
    submitterConfig=closed(backoffLimit=COUNT),
    rayClusterSpec=RAYCLUSTER_SPEC,
)
RUNTIME_ENV = closed(working_dir=TEXT, env_vars=ANY, pip=ANY, excludes=ANY)


def core_parts(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a RayCluster's spec holds of Kubernetes itself, as objects that Kubernetes has."""
    for group in [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]:
        yield pod_template(group["template"])
    if service := spec["headGroupSpec"].get("headService"):
        yield {"apiVersion": "v1", "kind": "Service", **service}
    autoscaler = spec.get("autoscalerOptions", {})
    alike = ("resources", "securityContext", "env", "envFrom", "volumeMounts")
    container = {key: autoscaler[key] for key in alike if key in autoscaler}
    options = spec.get("gcsFaultToleranceOptions", {})
    secrets = [
        {"name": "ANY", **options[key]}
        for key in ("redisUsername", "redisPassword")
        if key in options
    ]
    container["env"] = container.get("env", []) + secrets
    yield pod_template({"spec": {"containers": [{"name": "any", **container}]}})


def pod_template(template: dict[str, Any]) -> dict[str, Any]:
    wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}}
    return {**wrapped, "template": template}


def wrong_together(thing: dict[str, Any]) -> Iterator[str]:
    """The operator's own rules over several fields, as far as they concern these files."""
    spec = thing["spec"]
    if thing["kind"] == "RayJob":
        if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
            yield "one of rayClusterSpec and clusterSelector"
        if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
            yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
        spec = spec.get("rayClusterSpec", {})
    head = spec.get("headGroupSpec", {})
    if "gcsFaultToleranceOptions" in spec:
        environment = head["template"]["spec"]["containers"][0].get("env", [])
        if {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} & {v["name"] for v in environment}:
            yield "gcsFaultToleranceOptions beside Redis's variables"
        if "redis-password" in head["rayStartParams"]:
            yield "gcsFaultToleranceOptions beside redis-password"
    for group in spec.get("workerGroupSpecs", []):
        low, now, high = (group.get(f"{name}eplicas") for name in ("minR", "r", "maxR"))
        if None in (low, now, high) or not low <= now <= high:
            yield f"{group['groupName']}: not minReplicas <= replicas <= maxReplicas"
    names = [group["groupName"] for group in spec.get("workerGroupSpecs", [])]
    if len(set(names)) < len(names):
        yield "two worker groups of one name"
