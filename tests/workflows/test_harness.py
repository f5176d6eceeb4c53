"""Requests are split without losing their order, nor the numbers of their repeats."""

from __future__ import annotations

from collections import Counter

import pytest
from lm_eval.api.instance import Instance

from jointsampler import UserError
from jointsampler.cli import main
from jointsampler.harness.model import _row_ids
from workflows import harness


def requests(documents: int, repeats: int) -> list[Instance]:
    made = [
        Instance("generate_until", {}, (f"document {i}", {}), 0, metadata=("a task", i, repeats))
        for i in range(documents)
    ]
    return [instance for instance in made for _ in range(repeats)]


@pytest.mark.parametrize(("documents", "repeats", "size"), [(7, 1, 2), (5, 3, 4), (3, 4, 1)])
def test_pieces_keep_the_order_and_the_row_ids(documents, repeats, size):
    every = requests(documents, repeats)
    parts = harness.pieces(every, size)
    assert [request for part in parts for request in part] == every
    assert [row for part in parts for row in _row_ids(part)] == _row_ids(every)
    assert all(size <= len(part) < size + repeats for part in parts[:-1])


def test_workers_answer_pieces_as_one_model_answers_all():
    """Two repeats of three documents; each piece goes to a worker that has answered others before."""
    given = {"method": "marginal", "k": 4, "device": "cpu", "batch_size": 4, "seed": 3}
    wanted = {"max_gen_toks": 8, "do_sample": True}
    every = requests(3, 2)
    for request in every:
        request.arguments = (f"shuffle: ann bob {'cid ' * request.doc_id}->", wanted)
    workers = [harness.Worker(given), harness.Worker(given)]
    answers, cost = [], Counter()
    for i, part in enumerate(harness.pieces(every, 1)):
        found, spent = workers[i % 2].answer("generate_until", part)
        answers += found
        cost += spent
    assert (answers, cost) == harness.Worker(given).answer("generate_until", every)
    assert len(set(answers)) > 3


def test_method_auto_is_refused(monkeypatch):
    monkeypatch.setattr(harness.cluster, "connect", lambda: pytest.fail("a cluster was started"))
    with pytest.raises(UserError, match="jointsampler tune"):
        harness.FanOut(method="auto")


def test_the_command_names_the_model_and_a_mistake_is_one_line(capsys, monkeypatch):
    def refuse(argv):
        assert argv == ["--model", "jointsampler-ray", "--tasks", "x"]
        raise UserError("no")

    monkeypatch.setattr(harness.command, "main", refuse)
    assert main(["lm-eval-ray", "--tasks", "x"]) == 2
    assert "jointsampler: no" in capsys.readouterr().err
