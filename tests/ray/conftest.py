from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ray.jobs import submit
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


@pytest.fixture(scope="session")
def two_runs(head, judge_folder, tmp_path_factory):
    """Two submitted jobs that share one MLflow: 2 teachers, then 1 teacher and another seed of training."""
    base = tmp_path_factory.mktemp("runs")
    uri = f"run.mlflow_uri=sqlite:///{base / 'mlflow.db'}"
    judge = f"evaluate.judge={judge_folder}"
    first = submit(head, base / "a", uri, judge, "corpus.actors=2", "train.workers=2")
    submit(head, base / "b", uri, judge, "corpus.actors=1", "train.workers=1", "train.zero_stage=2")
    again = submit(head, base / "a", uri, judge, "corpus.actors=2", "train.workers=2")
    return base, first, again
