"""The registered model brings its own code and asks a package index for nothing of ours."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement

from jointsampler.config import load_config
from workflows.tracking import NEWEST, REGISTERED_MODEL, open_run

OURS = ("jointsampler", "workflows")


def test_a_registered_model_requires_no_package_of_our_names(tmp_path, trained_like):
    """Such a name may belong to anybody in an index that is not ours."""
    trained_like.save_pretrained(tmp_path / "sampler")
    with open_run(load_config(), tmp_path) as tracker:
        version = tracker.register_sampler(tmp_path / "sampler", [NEWEST])
    mlflow.set_tracking_uri(tracker.uri)
    assert MlflowClient(tracker.uri).get_model_version(REGISTERED_MODEL, version).status == "READY"
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{REGISTERED_MODEL}/{version}"))
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        words = [line.strip(" -") for line in (model / name).read_text().splitlines()]
        assert not [word for word in words if word.startswith(OURS)]
    lines = (model / "requirements.txt").read_text().split()
    assert all(str(Requirement(line).specifier).startswith("==") for line in lines)
    assert (model / "code/jointsampler/decoding/loop.py").is_file()
    assert not list(model.rglob("*.pkl")) and not list(model.rglob("*.bin"))
