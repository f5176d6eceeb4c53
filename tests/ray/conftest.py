from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray.nodes import Head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A Ray head of its own with four logical CPUs, ended with the session."""
    with Head(cpus=4) as head:
        yield head


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Head]:
    """A head that takes no work and two workers: three raylets, each with its own resources."""
    with Head(cpus=0) as head:
        head.add_node(cpus=2)
        head.add_node(cpus=2)
        yield head
