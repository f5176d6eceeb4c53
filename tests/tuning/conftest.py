from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder for every test."""
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
