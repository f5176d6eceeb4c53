"""The sampler as an artefact: saved, loaded, tied to its teacher."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from jointsampler import JointSampler, UserError, block_kl, generate
from jointsampler.sampler import at_columns, sampler_folder, spaced_layers
from jointsampler.sampler.layer import beside
from tests.support.analytic import skewed_teacher


def test_a_saved_sampler_reloads_bit_equal(tiny, trained_like, tmp_path):
    trained_like.save_pretrained(tmp_path)
    loaded = JointSampler.from_pretrained(tmp_path)
    for (name, a), (_, b) in zip(
        trained_like.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name
    assert loaded.config.teacher_fingerprint == tiny.fingerprint
    assert loaded.config.width == 64
    kwargs = dict(method="joint", k=4, num_samples=3, max_new_tokens=8)
    before, after = generate(tiny, trained_like, **kwargs), generate(tiny, loaded, **kwargs)
    assert torch.equal(before.sequences, after.sequences)


def test_a_sampler_refuses_another_teacher(trained_like):
    other = skewed_teacher()
    with pytest.raises(UserError, match="was distilled from teacher 'tiny'"):
        generate(other, trained_like, method="joint", k=2, max_new_tokens=4)


def test_block_kl_refuses_it_too(tiny, trained_like, samples):
    trained_like.config.teacher_fingerprint, kept = "other", trained_like.config.teacher_fingerprint
    try:
        with pytest.raises(UserError, match="was distilled from"):
            block_kl(tiny, trained_like, samples, k=2)
    finally:
        trained_like.config.teacher_fingerprint = kept


def test_a_width_that_does_not_fit_the_heads_is_refused(tiny):
    with pytest.raises(UserError, match="multiple of the head size 32"):
        JointSampler.for_teacher(tiny, width=100)


def test_a_folder_without_a_sampler_is_refused(tmp_path):
    with pytest.raises(UserError, match="No sampler in"):
        JointSampler.from_pretrained(tmp_path)


def test_the_same_seed_gives_the_same_fresh_sampler_and_leaves_torchs_stream_alone(tiny):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    a, b = (JointSampler.for_teacher(tiny, width=32, seed=7) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not a.project.weight.any()  # zero: an untrained sampler is the marginal model


def test_the_config_on_disk_says_what_it_is(trained_like, tmp_path):
    trained_like.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["width"]) == ("jointsampler", 64)
    assert config["teacher_name"] == "tiny"


def test_a_sampler_of_an_older_version_is_refused(tmp_path, trained_like):
    """Without an estimator ``adaptive`` would decide on noise."""
    trained_like.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("estimator.")}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="does not fit this version"):
        JointSampler.from_pretrained(tmp_path)


def test_neighbors_reach_a_position_and_padding_does_not(tiny):
    """The term beside a position: its neighbours' embeddings, zero past the row's own ends."""
    x = torch.arange(1.0, 6.0).view(1, 5, 1)
    assert beside(x, 1, None)[0].tolist() == [[0, 2], [1, 3], [2, 4], [3, 5], [4, 0]]
    mask = torch.tensor([[False, True, True, True, True]])
    assert beside(x, 1, mask)[0, 1:].tolist() == [[0, 3], [2, 4], [3, 5], [4, 0]]

    sampler = JointSampler.for_teacher(tiny, width=64, neighbors=2).eval()
    torch.manual_seed(0)
    for parameter in sampler.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    embedding, states = torch.randn(2, 1, 9, tiny.hidden_size)
    alone = sampler(embedding, states)
    padded = sampler(
        *(torch.cat([torch.ones_like(t[:, :3]), t], dim=1) for t in (embedding, states)),
        torch.tensor([[False] * 3 + [True] * 9]),
    )[:, 3:]
    assert torch.allclose(alone, padded, atol=1e-5)


def test_a_last_pass_at_some_columns_is_the_whole_pass_there(tiny):
    sampler = JointSampler.for_teacher(tiny, width=64, features=2, neighbors=1)
    torch.manual_seed(0)
    for parameter in sampler.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    embedding = torch.randn(2, 9, tiny.hidden_size)
    states = torch.randn(2, 9, 3 * tiny.hidden_size)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :4] = False
    columns = torch.tensor([[8, 0, 3], [5, 4, 8]])
    whole = at_columns(sampler(embedding, states, mask), columns)
    assert torch.allclose(sampler(embedding, states, mask, columns), whole, rtol=1e-5, atol=1e-6)


def test_inner_layers_are_read_evenly_spaced_and_pass_through_unchanged(tiny):
    assert spaced_layers(tiny, 0) == []
    assert spaced_layers(tiny, 2) == [3, 7]
    sampler = JointSampler.for_teacher(tiny, width=64, features=2)
    reading = sampler.reading(tiny)
    ids = torch.full((1, 6), tiny.mask_id)
    states = reading.hidden(ids)
    with torch.no_grad():
        after = sampler(tiny.embed(ids), states)
    assert states.shape[-1] == 3 * tiny.hidden_size
    assert torch.equal(after[..., tiny.hidden_size :], states[..., tiny.hidden_size :])
    with pytest.raises(UserError, match="at most 9 besides the last, not 10"):
        JointSampler.for_teacher(tiny, features=10)


def test_the_shipped_sampler_is_found_by_its_name(tiny, shipped):
    assert sampler_folder("tiny").is_dir() and sampler_folder("out/mine").name == "mine"
    shipped.check_teacher(tiny)
    assert torch.equal(
        shipped.project.weight, JointSampler.from_pretrained(sampler_folder("tiny")).project.weight
    )
