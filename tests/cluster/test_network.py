"""Who may open a connection to whom: ``network.yaml`` by Kubernetes's rules, and MLflow's way in."""

from __future__ import annotations

import pytest

from tests.cluster.files import (
    COMPOSE,
    MLFLOW_PODS,
    NETWORK,
    README,
    manifests,
    read,
)

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
