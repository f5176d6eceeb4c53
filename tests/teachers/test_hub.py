"""A teacher on the hub: a description fetches no weights and equals the loaded teacher."""

from __future__ import annotations

import huggingface_hub.constants as constants
import pytest
import torch

from jointsampler import UserError, load_teacher
from tests.support import checkpoints
from tests.support.hub import Hub

REAL_ENDPOINT = constants.ENDPOINT
FIELDS = ("fingerprint", "mask_id", "eos_id", "vocab_size", "hidden_size", "layers", "max_length")


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Serve folders as hub repositories, and give every call a fresh local cache."""
    started, caches = [], iter(range(100))

    def start(repositories, **options) -> Hub:
        hub = Hub(repositories, **options).__enter__()
        started.append(hub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(REAL_ENDPOINT, hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        fresh_cache()
        return hub

    def fresh_cache():
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"cache{next(caches)}"))

    start.fresh_cache = fresh_cache
    yield start
    for hub in started:
        hub.__exit__()


def offline(monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


WRITERS = {
    "dream": checkpoints.write_dream,  # three shards and an index
    "llada": checkpoints.write_llada,  # one file
    "masked_lm": checkpoints.write_bert,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_description_fetches_no_weights_and_has_the_loaded_fingerprint(
    tmp_path, monkeypatch, serve, name
):
    folder = tmp_path / name
    WRITERS[name](folder)
    hub = serve({f"maker/{name}": folder}, refuse_weights=True)
    described = load_teacher(f"maker/{name}", device="meta")
    assert "config.json" in hub.fetched
    assert not [file for file in hub.fetched if file.endswith(".safetensors")]
    with pytest.raises(UserError, match="the hub did not give it"):
        load_teacher(f"maker/{name}", device="cpu")  # the refusal is real

    hub.refuse_weights = False
    serve.fresh_cache()
    loaded = load_teacher(f"maker/{name}", device="cpu")
    for field in FIELDS:
        assert getattr(described, field) == getattr(loaded, field)
    local = load_teacher(str(folder), device="cpu")
    ids = torch.arange(6)[None]
    assert torch.equal(loaded.hidden(ids), local.hidden(ids))

    offline(monkeypatch)
    fetched = len(hub.fetched)
    again = load_teacher(f"maker/{name}", device="meta")
    assert again.fingerprint == described.fingerprint
    assert load_teacher(f"maker/{name}", device="cpu").fingerprint == described.fingerprint
    assert len(hub.fetched) == fetched


def test_other_weights_on_the_hub_have_another_fingerprint(tmp_path, serve):
    folder = tmp_path / "llada"
    checkpoints.write_llada(folder)
    hub = serve({"maker/llada": folder}, refuse_weights=True)
    first = load_teacher("maker/llada", device="meta").fingerprint
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # one bit, far from both ends
    path.write_bytes(data)
    serve.fresh_cache()
    assert load_teacher("maker/llada", device="meta").fingerprint != first
    assert not [file for file in hub.fetched if file.endswith(".safetensors")]


def test_an_offline_description_without_cached_weights_says_so(tmp_path, monkeypatch, serve):
    folder = tmp_path / "dream"
    checkpoints.write_dream(folder)
    serve({"maker/dream": folder})
    load_teacher("maker/dream", device="meta")
    offline(monkeypatch)
    with pytest.raises(UserError, match="Cannot identify the weights of 'maker/dream'"):
        load_teacher("maker/dream", device="meta")


def test_a_repository_without_safetensors_is_refused_when_described(tmp_path, serve):
    folder = tmp_path / "llada"
    checkpoints.write_llada(folder)
    (folder / "model.safetensors").unlink()
    serve({"maker/llada": folder})
    with pytest.raises(UserError, match="no safetensors weights"):
        load_teacher("maker/llada", device="meta")


def test_the_embedded_teacher_keeps_its_fingerprint(tiny):
    """Shipped samplers record it."""
    assert load_teacher("tiny", device="meta").fingerprint == tiny.fingerprint
    assert tiny.fingerprint == "b94ef2bf6c4cf193"
