"""One lock file has the versions of the image, bare nodes and the submitting machine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from tests.cluster.checks import CHECKS
from tests.cluster.files import (
    AWS,
    DOCKERFILE,
    GCP,
    LOCK,
    PROJECT,
    README,
    ROOT,
    SBATCH,
)


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
