"""The command line, as a user calls it."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console

from jointsampler import generate
from jointsampler.cli import main
from jointsampler.cli.watch import MASK, Watcher
from jointsampler.evaluation.compare import Fidelity, Row, at_equal_cost, default_grid, frontier
from jointsampler.evaluation.stats import Estimate
from jointsampler.sampler.estimator import Foresight


@pytest.fixture(scope="module")
def sampler_folder(trained_like, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampler")
    trained_like.save_pretrained(folder)
    return str(folder)


def call(capsys, *argv: str) -> tuple[int, str, str]:
    status = main([*argv, "--device", "cpu"])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_generate_prints_the_text_and_its_cost(capsys, sampler_folder, tiny, trained_like):
    status, out, err = call(
        capsys, "generate", "--sampler", sampler_folder, "--k", "2", "--max-new-tokens", "8", "--seed", "3", "def f("
    )  # fmt: skip
    same = generate(tiny, trained_like, ["def f("], method="joint", k=2, max_new_tokens=8, seed=3)
    assert status == 0 and out == f"def f({same.texts[0]}\n"
    assert "tokens a teacher pass" in err and "tokens/s" in err


def test_json_is_one_object_a_sample_and_prompts_come_from_stdin(capsys, monkeypatch, tiny):
    monkeypatch.setattr("sys.stdin", io.StringIO("x = \n\nimport\n"))
    status, out, _ = call(
        capsys, "generate", "--sampler", "none", "--method", "marginal", "--k", "4", "--max-new-tokens", "8", "--json", "--num-samples", "2"
    )  # fmt: skip
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [r["row"] for r in records] == [0, 1, 2, 3]
    assert tiny.tokenizer.decode(records[3]["prompt_ids"][1:]) == "import"
    assert all(r["teacher_passes"] <= 2 and len(r["tokens"]) == 8 for r in records)


def test_watch_shows_masks_disappear_and_a_colour_per_pass(tiny):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
    pictures = []
    with Watcher(tiny, console) as watcher:

        def look(canvas):
            watcher(canvas)
            pictures.append(watcher.picture(canvas, 0))

        out = generate(
            tiny,
            prompts=["import os\n"],
            method="marginal",
            k=2,
            max_new_tokens=6,
            seed=2,
            on_reveal=look,
        )
    masks = [picture.plain.count(MASK) for picture in pictures]
    if tiny.eos_id not in out.responses[0].tolist():
        assert masks == [5, 4, 3, 2, 1, 0]
        assert pictures[-1].plain == "import os\n" + out.texts[0]
        assert len({span.style for span in pictures[-1].spans} - {"dim"}) == 3
    assert "\x1b[" in console.file.getvalue()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--method", "jont"], "did you mean 'joint'"),
        (["--method", "joint", "--sampler", "none"], "needs a sampler"),
        (["--temperature", "-1", "--method", "sequential"], "temperature must be 0 (greedy) or positive"),
        (["--method", "threshold", "--set", "threshold=2"], "threshold must lie in (0, 1]"),
        (["--method", "threshold", "--set", "budget=1"], "setting of method 'threshold'"),
        (["--method", "adaptive", "--set", "budget"], "not name=number"),
        (["--method", "marginal", "--set", "k=2"], "has no setting 'k'"),
        (["--method", "marginal", "--max-new-tokens", "8", "--block-length", "3"], "does not divide"),
        (["--method", "marginal", "--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--sampler", "/nowhere"], "No sampler in /nowhere"),
        (["--teacher", "/nowhere"], "No teacher '/nowhere'"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence_and_status_2(capsys, argv, said):
    status, out, err = call(capsys, "generate", *argv, "x")
    assert status == 2 and out == ""
    assert said in err and len(err.strip().splitlines()) == 1


def test_compare_measures_every_method_alike_and_draws_the_frontier(
    capsys, sampler_folder, tmp_path
):
    status, out, _ = call(
        capsys, "compare", "--sampler", sampler_folder, "--out", str(tmp_path), "--samples", "6", "--k", "2",
        "--max-new-tokens", "8", "--prompts-per-task", "1",
        "--methods", "sequential", "joint", "adaptive", "lossless", "threshold",
    )  # fmt: skip
    assert status == 0
    written = json.loads((tmp_path / "compare.json").read_text())
    names = [row["method"] for row in written["rows"]]
    assert names == ["sequential", "joint", "lossless", *["adaptive"] * 6, *["threshold"] * 4]
    assert all(name in out for name in names)
    sequential, joint, lossless = written["rows"][:3]
    for kind in ("text", "tasks"):
        assert (
            sequential[kind]["nats_per_token"]["value"]
            == 0
            < joint[kind]["nats_per_token"]["value"]
        )
    assert lossless["text"] is None and sum(lossless["block_ends"]) == pytest.approx(1)
    assert joint["tokens_per_cost"] < joint["tokens_per_teacher_pass"]
    assert sum(count for *_, count in written["calibration"]) == 6 * 7
    assert "Pareto frontier" in (tmp_path / "compare.svg").read_text()


def test_compare_without_a_sampler_leaves_out_what_needs_one(capsys):
    status, out, _ = call(
        capsys,
        "compare",
        "--samples",
        "2",
        "--k",
        "2",
        "--max-new-tokens",
        "4",
        "--prompts-per-task",
        "0",
        "--sampler",
        "none",
    )
    assert status == 0 and "marginal" in out and "joint" not in out
    status, _, err = call(capsys, "compare", "--methods", "joint", "--sampler", "none")
    assert status == 2 and "--sampler" in err


def test_the_default_grid_knows_every_method():
    from jointsampler.decoding.methods import METHODS

    assert {setting.method for setting in default_grid([2, 4])} == set(METHODS)


def row_of(name: str, nats: float, cost: float) -> Row:
    fidelity = Fidelity(Estimate(nats, nats, nats, 1), cost)
    return Row(name, "", fidelity, None, None, None, cost, cost, 1.0, None)


def test_the_frontier_keeps_what_nothing_beats():
    assert frontier([(1.0, 0.0), (2.0, 0.5), (3.0, 0.4), (2.5, 0.9)]) == [(1.0, 0.0), (3.0, 0.4)]


def test_methods_are_held_against_each_other_at_equal_cost():
    rows = [row_of("sequential", 0, 1), row_of("joint", 0.4, 3), row_of("joint", 1.0, 5)]
    rows += [row_of("adaptive", 0.1, 2), row_of("adaptive", 0.3, 4), row_of("adaptive", 2, 9)]
    assert at_equal_cost(rows, "text") == [
        (2, 0.1, pytest.approx(0.2)),
        (4, 0.3, pytest.approx(0.7)),
    ]
    assert at_equal_cost(rows, "tasks") == []


def test_the_installed_command_is_this_one():
    from importlib.metadata import entry_points

    (command,) = (e for e in entry_points(group="console_scripts") if e.name == "jointsampler")
    assert command.load() is main


def test_estimates_stay_on_the_device_of_the_sampler(trained_like):
    hidden = torch.zeros(3, trained_like.config.teacher_hidden_size)
    seen = Foresight(hidden, hidden, torch.zeros(3, 9), hidden, torch.ones(3).long(), 2)
    assert trained_like.estimator(seen).shape == (3,)
