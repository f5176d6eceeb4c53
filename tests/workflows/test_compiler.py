"""Muon on a GPU needs a C compiler, and says so before DeepSpeed starts."""

from __future__ import annotations

import pytest
import torch

from jointsampler.config import TrainConfig
from jointsampler.errors import UserError
from workflows.train.engine import check_compiler

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """An empty path for programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def test_muon_on_a_gpu_without_a_compiler_is_refused(tools):
    with pytest.raises(UserError, match=r"no C compiler: install gcc, .* train\.optimizer=adamw"):
        check_compiler(TrainConfig(), GPU)


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_a_compiler_on_the_path_is_found(tools, name):
    (tools / name).touch(0o755)
    check_compiler(TrainConfig(), GPU)


def test_what_compiles_nothing_needs_no_compiler(tools, monkeypatch):
    check_compiler(TrainConfig(), CPU)
    check_compiler(TrainConfig(optimizer="adamw"), GPU)
    monkeypatch.setenv("CC", "/opt/bin/cc")
    check_compiler(TrainConfig(), GPU)
