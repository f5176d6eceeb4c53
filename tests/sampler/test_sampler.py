"""The sampler as an artefact: saved, loaded, tied to its teacher."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from jointsampler import JointSampler, UserError, block_kl, generate
from jointsampler.sampler import EMBEDDED, at_columns, sampler_folder
from tests.support.analytic import skewed_teacher
from tests.support.samplers import busy_sampler


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


@pytest.mark.parametrize("columns", [None, torch.tensor([[8, 0, 3]])], ids=["all", "some"])
def test_padding_reaches_no_position(tiny, columns):
    sampler = busy_sampler(tiny, depth=0, width=64, std=0.05)
    inputs, states = torch.randn(2, 1, 9, tiny.hidden_size, generator=torch.manual_seed(0))
    alone = sampler(inputs, states, None, columns)
    padded = sampler(
        *(torch.cat([torch.ones_like(t[:, :3]), t], dim=1) for t in (inputs, states)),
        torch.tensor([[False] * 3 + [True] * 9]),
        None if columns is None else columns + 3,
    )
    assert torch.allclose(alone, padded if columns is not None else padded[:, 3:], atol=1e-5)


def test_a_last_pass_at_some_columns_is_the_whole_pass_there(tiny):
    sampler = JointSampler.for_teacher(tiny, width=64)
    torch.manual_seed(0)
    for parameter in sampler.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    inputs, states = torch.randn(2, 2, 9, tiny.hidden_size)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :4] = False
    columns = torch.tensor([[8, 0, 3], [5, 4, 8]])
    whole = at_columns(sampler(inputs, states, mask), columns)
    assert torch.allclose(sampler(inputs, states, mask, columns), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [0, 1, 3, 9])
def test_a_sampler_keeps_its_depth_and_reads_the_layers_that_it_needs(tiny, tmp_path, depth):
    sampler = JointSampler.for_teacher(tiny, width=64, depth=depth)
    sampler.save_pretrained(tmp_path)
    loaded = JointSampler.from_pretrained(tmp_path)
    assert loaded.config.depth == depth
    # A hybrid reads layer ``depth`` and the last one, before the final norm.
    assert loaded.reading(tiny).read_layers == ((depth, 10) if depth else ())


@pytest.mark.parametrize("depth", [-1, 10, 40])
def test_a_depth_that_leaves_no_layer_above_is_refused(tiny, depth):
    with pytest.raises(UserError, match=rf"has 10 layers: .* between 0 .* and 9, not {depth}\."):
        JointSampler.for_teacher(tiny, depth=depth)


def test_a_depth_on_a_teacher_that_cannot_rerun_columns_is_refused():
    class Recurrent(type(skewed_teacher())):
        layers = 3

        def rerun(self, *args, **kwargs):
            return super().rerun(*args, **kwargs) + 1.0

    teacher = Recurrent({(0, 1): 0.5, (1, 0): 0.5}, 2)
    assert JointSampler.for_teacher(teacher, depth=0)
    with pytest.raises(UserError, match=r"cannot rerun a few columns.*differs from the full"):
        JointSampler.for_teacher(teacher, depth=1)


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_shipped_sampler_is_found_by_its_name_and_fits_the_embedded_teacher(tiny, name):
    assert sampler_folder(name).is_dir() and sampler_folder("out/mine").name == "mine"
    loaded = JointSampler.from_pretrained(name)
    loaded.check_teacher(tiny)
    assert bool(loaded.config.depth) == (name == "tiny")  # the other one is the paper's form
    again = JointSampler.from_pretrained(sampler_folder(name))
    assert torch.equal(loaded.project.weight, again.project.weight)


def test_the_mlp_follows_the_width_unless_it_is_given(tiny):
    sizes = [
        JointSampler.for_teacher(tiny, 96, mlp=mlp).config.intermediate_size for mlp in (None, 40)
    ]
    assert sizes == [256, 40]
