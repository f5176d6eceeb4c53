"""The items of an evaluation are kept in files, which belong to one configuration and one sampler."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jointsampler.config import load_config
from jointsampler.evaluation import saved
from jointsampler.evaluation.items import Samples
from workflows import corpus, evaluation
from workflows.cluster import Pool
from workflows.train.launch import take

SMALL = [
    "evaluate.judge=none", "corpus.rows=4", "corpus.held_out=4", "corpus.rows_per_file=8",
    "corpus.max_new_tokens=8", "evaluate.samples=4", "evaluate.samples_per_item=2",
    "evaluate.generation_seeds=1", "evaluate.ks=[2]", "evaluate.methods=[joint]",
    "train.steps=0", "train.warm_start=tiny", "sampler.width=192", "sampler.mlp=1024", "sampler.depth=3",
]  # fmt: skip


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


@pytest.fixture
def plan(tmp_path: Path) -> evaluation.EvaluatePlan:
    """An evaluation of the shipped sampler on a corpus of eight rows."""
    made = evaluation.plan(load_config(None, SMALL), tmp_path)
    rows = made.train.corpus
    corpus.prepare(rows)
    corpus.finish(rows, {0: corpus.TeacherActor(rows).make(0)[0]})
    take(made.train)
    return made


def here(most: int | None, done: list[int]):
    """A stand-in of ``spread``: this process does the items, ``most`` of them, then it is interrupted."""

    def spread(worker, plan, indices, *_):
        actor = worker(plan)
        for count, index in enumerate(indices):
            if count == most:
                raise KeyboardInterrupt
            done.append(index)
            yield actor({"index": np.array([index])})

    return spread


def test_an_evaluation_that_is_cut_off_goes_on_with_the_missing_items(plan, monkeypatch, capsys):
    pool, done = Pool(1, 0, 1), []
    monkeypatch.setattr(evaluation, "spread", here(2, done))
    with pytest.raises(KeyboardInterrupt):
        evaluation.do_items(plan, pool, None)
    count = len(plan.items())
    assert done == [0, 1] and count > 3
    monkeypatch.setattr(evaluation, "spread", here(None, done))
    evaluation.do_items(plan, pool, None)
    assert done == list(range(count))  # each once
    assert f"evaluate: 2 of {count} items are from an earlier run" in capsys.readouterr().out
    evaluation.do_items(plan, pool, None)
    assert done == list(range(count))  # nothing is left
    undisturbed = evaluation.EvaluationActor(plan).evaluator
    for index, item in enumerate(plan.items()):
        kept, fresh = saved.load(plan.items_folder, index, item), undisturbed.do(item, plan.pairs)
        if isinstance(fresh, Samples):
            fresh = dataclasses.replace(fresh, seconds=kept.seconds)
        assert saved.encoded(kept) == saved.encoded(fresh)
