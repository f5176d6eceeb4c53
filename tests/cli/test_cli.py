"""The command line, as a user calls it."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from jointsampler import Refresh, generate
from jointsampler.cli import main
from jointsampler.cli.watch import MASK, LiveView
from jointsampler.decoding.methods import METHODS
from jointsampler.evaluation.grid import default_grid
from jointsampler.evaluation.results import Fidelity, MethodResult, frontier, read_results
from jointsampler.evaluation.stats import Interval
from jointsampler.evaluation.worth import at_equal_cost
from jointsampler.tasks import TAUGHT


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
    assert "full passes" in err and "tokens a row" in err and "tokens/s" in err


def test_a_rule_and_an_update_combine_freely_and_need_no_sampler(capsys, tiny):
    settings = ("--max-new-tokens", "8", "--seed", "3", "def f(")
    _, out, _ = call(
        capsys, "generate", "--method", "threshold", "--update", "refresh", "--set", "threshold=0.2",
        "--columns", "4", "--sampler", "none", *settings,
    )  # fmt: skip
    same = generate(
        tiny, Refresh(4), ["def f("], method="threshold", threshold=0.2, max_new_tokens=8, seed=3
    )
    assert out == f"def f({same.texts[0]}\n" and same.update_passes.item() > 0
    _, out, err = call(capsys, "generate", "--method", "refresh", "--k", "8", "--sampler", "none", *settings)  # fmt: skip
    same = generate(tiny, None, ["def f("], method="refresh", k=8, max_new_tokens=8, seed=3)
    assert out == f"def f({same.texts[0]}\n" and "1 full passes and 7 updates" in err


def test_json_is_one_object_a_sample_and_prompts_come_from_stdin(capsys, monkeypatch, tiny):
    monkeypatch.setattr("sys.stdin", io.StringIO("x = \n\nimport\n"))
    status, out, _ = call(
        capsys, "generate", "--sampler", "none", "--method", "marginal", "--k", "4", "--max-new-tokens", "8", "--json", "--num-samples", "2"
    )  # fmt: skip
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [r["row"] for r in records] == [0, 1, 2, 3]
    assert tiny.tokenizer.decode(records[3]["prompt_ids"][1:]) == "import"
    assert all(r["teacher_passes"] <= 2 and len(r["tokens"]) == 8 for r in records)
    assert all(
        r["teacher_rows"] == r["teacher_passes"] and r["update_passes"] == 0 for r in records
    )


def test_watch_shows_masks_disappear_and_a_colour_per_round(tiny):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
    pictures = []
    with LiveView(tiny, console) as view:

        def look(canvas):
            view(canvas)
            pictures.append(view.picture(canvas, 0))

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
        (["--method", "joint", "--sampler", "none"], "needs an update"),
        (["--update", "joint", "--method", "threshold", "--sampler", "none"], "--update joint needs a sampler"),
        (["--method", "refresh", "--columns", "0"], "at least 1 column"),
        (["--method", "refresh", "--cache", "prefix", "--max-new-tokens", "8", "--block-length", "4"], "use cache='none'"),
        (["--temperature", "-1", "--method", "sequential"], "temperature must be 0 (greedy) or positive"),
        (["--method", "threshold", "--set", "threshold=2"], "threshold must lie in (0, 1]"),
        (["--method", "threshold", "--set", "budget=1"], "setting of method 'threshold'"),
        (["--method", "adaptive", "--set", "budget"], "not name=number"),
        (["--method", "marginal", "--set", "k=2"], "has no setting 'k'"),
        (["--method", "marginal", "--max-new-tokens", "8", "--block-length", "3"], "does not divide"),
        (["--method", "marginal", "--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--sampler", "/nowhere"], "No sampler in /nowhere"),
        (["--teacher", "/nowhere"], "No teacher '/nowhere'"),
        (["--method", "sequential", "--k", "4"], "Method 'sequential' has no k: leave --k out."),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence_and_status_2(capsys, argv, said):
    status, out, err = call(capsys, "generate", *argv, "x")
    assert status == 2 and out == ""
    assert said in err and len(err.strip().splitlines()) == 1


def test_compare_measures_every_setting_alike_and_draws_the_frontier(
    capsys, sampler_folder, tmp_path
):
    status, out, _ = call(
        capsys, "compare", "--sampler", sampler_folder, "--out", str(tmp_path), "--samples", "3", "--k", "2",
        "--columns", "3", "--max-new-tokens", "6", "--prompts-per-task", "1",
        "--methods", "sequential", "joint", "refresh", "lossless", "adaptive",
    )  # fmt: skip
    assert status == 0
    results = read_results(tmp_path / "results.json")
    labels = [row.label for row in results.methods]
    assert labels == [
        "sequential", "joint", "refresh", "lossless (refresh)", "lossless (joint)",
        *["adaptive (refresh)"] * 4, *["adaptive (joint)"] * 4,
    ]  # fmt: skip
    assert all(label in out for label in labels)
    by_label = {row.label: row for row in results.methods}
    sequential, joint, refresh, lossless = (
        by_label[name] for name in ("sequential", "joint", "refresh", "lossless (refresh)")
    )
    for path in ("recorded", "own"):
        nats = [row.kl[path].nats_per_token.value for row in (sequential, refresh, joint)]
        assert nats[0] == 0 and min(nats[1:]) > 0
        assert lossless.kl[path].nats_per_token.value == 0
        assert joint.kl_on_tasks[path].nats_per_token.value > 0
    assert sequential.tokens_per_cost == sequential.tokens_per_row == sequential.tokens_per_pass
    assert joint.tokens_per_cost < joint.tokens_per_row
    # A verification counts with every prefix, so its rows buy less than its passes.
    assert lossless.tokens_per_row < lossless.tokens_per_pass
    assert sum(lossless.round_ends) == pytest.approx(1) and joint.round_ends is None
    assert set(results.costs) == {
        "joint", "refresh", "joint with its estimate", "refresh with its estimate"
    }  # fmt: skip
    assert sum(count for *_, count in results.calibration) > 0
    assert "Pareto frontier" in (tmp_path / "compare.svg").read_text()
    assert [curve.label for curve in results.curves] == list(dict.fromkeys(labels))[1:]
    assert all(f"{curve.label}: AUP" in out for curve in results.curves)
    said = [d for d in results.differences if d.metric == "accuracy" and d.against == "sequential"]
    assert len(said) == len(labels) - 1 and said[0].value.n == len(TAUGHT)
    assert all(f"accuracy of {d.row} minus that of sequential: {d}" in out for d in said)
    assert results.examples.columns == [row.title for row in results.methods]
    assert all(len(column) == 3 for column in results.examples.unmaskings)
    assert "| refresh, k = 2 |" in (tmp_path / "summary.md").read_text()
    written = str(tmp_path / "results.json")
    assert set(results.items) == {metric for row in results.methods for metric in row.units}
    capsys.readouterr()
    assert main(["check-results", written, "--against", written]) == 0
    assert f"; in pairs +0 [+0, +0], n = {len(TAUGHT)}" in capsys.readouterr().out


def test_compare_without_a_sampler_leaves_out_what_needs_one(capsys):
    few = ("--samples", "2", "--max-new-tokens", "4", "--prompts-per-task", "0", "--sampler", "none")  # fmt: skip
    status, out, _ = call(
        capsys, "compare", "--k", "2", *few, "--methods", "marginal", "refresh", "threshold"
    )
    assert status == 0 and "marginal" in out and "threshold (refresh)" in out
    assert "joint" not in out
    status, out, err = call(capsys, "compare", "--methods", "joint", "--sampler", "none")
    assert status == 2 and "--sampler" in err and out == ""
    status, _, err = call(capsys, "compare", "--methods", "jont", "--sampler", "none")
    assert status == 2 and "did you mean 'joint'" in err


def test_the_default_grid_has_every_method_with_every_update_it_takes():
    grid = default_grid([2, 4], trained=True)
    assert {setting.method for setting in grid} == set(METHODS)
    free = {(s.method, s.update) for s in default_grid([2], trained=False)}
    assert "joint" not in {update for _, update in free} | {method for method, _ in free}
    for name in ("threshold", "factor", "entropy_bound"):
        assert {update for method, update in free if method == name} == {"none", "refresh"}
    for setting in grid:
        METHODS[setting.method].check_settings(setting.rule)


def row_of(method: str, nats: float, cost: float, update: str = "none") -> MethodResult:
    interval = Interval(value=nats, low=nats, high=nats, n=1)
    return MethodResult(
        method=method, update=update, samples=1, teacher_passes=1, teacher_rows=1, update_passes=0,
        kl={"own": Fidelity(nats_per_token=interval, tokens_per_cost=cost)},
        tokens_per_pass=cost, tokens_per_row=cost, tokens_per_cost=cost, tokens_per_second=1,
    )  # fmt: skip


def test_the_frontier_keeps_what_nothing_beats():
    assert frontier([(1.0, 0.0), (2.0, 0.5), (3.0, 0.4), (2.5, 0.9)]) == [(1.0, 0.0), (3.0, 0.4)]


def test_methods_are_compared_at_equal_cost():
    rows = [row_of("sequential", 0, 1), row_of("joint", 0.4, 3), row_of("joint", 1.0, 5)]
    rows += [row_of("adaptive", nats, cost, "joint") for nats, cost in ((0.1, 2), (0.3, 4), (2, 9))]
    assert at_equal_cost(rows, "adaptive (joint)", "joint") == [
        (2, 0.1, pytest.approx(0.3)),  # a quarter of the way in cost per token, from 1/3 to 1
        (4, 0.3, pytest.approx(0.775)),
    ]
    assert at_equal_cost(rows, "adaptive (joint)", "joint", tasks=True) == []


def test_the_installed_command_is_this_one():
    from importlib.metadata import entry_points

    (command,) = (e for e in entry_points(group="console_scripts") if e.name == "jointsampler")
    assert command.load() is main


@pytest.mark.parametrize(
    ("method", "setting", "said"),
    [
        ("threshold", "threshold=2", "threshold must lie in (0, 1], not 2.0."),
        ("refresh", "step_bound=-1", "step_bound must be 0 nats or more, not -1.0."),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_loaded(capsys, method, setting, said):
    status = main(["generate", "--method", method, "--set", setting, "--teacher", "/nowhere", "x"])
    assert status == 2 and said in capsys.readouterr().err
