from __future__ import annotations

import pytest
import torch

from jointsampler import JointSampler, generate, load_teacher


@pytest.fixture(scope="session", autouse=True)
def _one_thread_pool():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny():
    return load_teacher("tiny", device="cpu")


@pytest.fixture(scope="session")
def trained_like(tiny):
    """A sampler with weights that do something, without a training."""
    sampler = JointSampler.for_teacher(tiny, width=64, seed=3)
    with torch.no_grad():
        sampler.project.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(3))
    return sampler.eval()


@pytest.fixture(scope="session")
def samples(tiny):
    """Twelve sequential samples of the embedded teacher."""
    return generate(tiny, method="sequential", k=1, num_samples=12, max_new_tokens=16, seed=5)
