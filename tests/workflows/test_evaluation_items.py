"""The files of an evaluation's items belong to one configuration and to one sampler's weights."""

from __future__ import annotations

from pathlib import Path

from jointsampler.config import load_config
from workflows import evaluation


def folder(out: Path, *overrides: str) -> str:
    """Name of the folder of the items' files."""
    config = load_config(None, ["evaluate.judge=none", *overrides])
    return Path(evaluation.plan(config, out).items_folder).name


def test_another_configuration_or_another_sampler_never_takes_them(tmp_path: Path):
    weights = tmp_path / "sampler" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"a sampler")
    own = folder(tmp_path)
    assert folder(tmp_path, "evaluate.actors=3") == own  # how, not what
    for other in ("evaluate.samples=7", "columns.count=3", "corpus.temperature=0.5", "run.seed=1"):
        assert folder(tmp_path, other) != own
    weights.write_bytes(b"the same plan, trained again")
    assert folder(tmp_path) != own
