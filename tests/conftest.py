from __future__ import annotations

import os

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jointsampler import JointSampler, generate, load_teacher
from tests.support.samplers import busy_sampler


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no CUDA device: {item.name}"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_pool():
    torch.set_num_threads(min(2, torch.get_num_threads()))  # OMP_NUM_THREADS=1 beside other work


@pytest.fixture(scope="session")
def tiny():
    return load_teacher("tiny", device="cpu")


@pytest.fixture(scope="session")
def trained_like(tiny):
    """A sampler of the paper's form with weights that do something, without a training."""
    return busy_sampler(tiny, depth=0, width=64)


@pytest.fixture(scope="session")
def hybrid_like(tiny):
    """The same on the teacher's three lowest layers."""
    return busy_sampler(tiny, depth=3, width=64)


@pytest.fixture(scope="session")
def shipped(tiny):
    """The trained sampler that comes with the embedded teacher."""
    return JointSampler.from_pretrained("tiny")


@pytest.fixture(scope="session")
def samples(tiny):
    """Twelve sequential samples of the embedded teacher."""
    return generate(tiny, method="sequential", num_samples=12, max_new_tokens=16, seed=5)


@pytest.fixture(scope="session")
def judge_folder(tiny, tmp_path_factory):
    """A tiny random causal LM with the embedded teacher's tokenizer.

    Its numbers mean nothing; the path through the code is the real one.
    """
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tiny.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=tiny.bos_id,
        eos_token_id=tiny.eos_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bucket():
    """The URI of an empty bucket behind a real S3 endpoint of this machine."""
    from moto.server import ThreadedMotoServer  # a second, which few tests need
    from pyarrow import fs

    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    before = dict(os.environ)
    os.environ.update(keys)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    where = f"127.0.0.1:{server.get_host_and_port()[1]}"
    fs.S3FileSystem(
        endpoint_override=where, scheme="http", allow_bucket_creation=True
    ).create_dir("runs")  # fmt: skip
    yield f"s3://runs?endpoint_override={where}&scheme=http"
    server.stop()
    os.environ.clear()
    os.environ.update(before)
