"""The report states what the results hold, with and without a judge, and nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from jointsampler import UserError
from jointsampler.evaluation.measured import At, Bin, Curve, CurvePoint, Difference
from jointsampler.evaluation.results import (
    Results,
    SweepTable,
    Trial,
    frontier,
    points,
    read_results,
    write_results,
)
from jointsampler.evaluation.stats import Interval
from jointsampler.report.charts import frontier_svg
from jointsampler.report.curve import CurvePoint as Report
from jointsampler.report.page import heat_map, write_report
from jointsampler.report.record import Run, RunRecord, StageRecord


def around(value: float) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 64}


CAPTURED = {"refresh": 0.97, "joint": 0.77}
MAUVE = {"marginal": 0.32, "refresh": 0.94, "joint": 0.81}


def unmasking(rounds: list[int]) -> dict:
    return {"tokens": ["</script>", "\n", "x"], "order": [2, 0, 1], "rounds": rounds, "end": 2}


def made(judge: bool, **changes) -> Results:
    methods = []
    for method, k in (("sequential", 1), ("marginal", 4), ("refresh", 4), ("joint", 4)):
        row = {
            "method": method,
            "setting": {"k": k} if k > 1 else {},
            "samples": 64,
            "teacher_passes": 32 / k,
            "teacher_rows": 32 / k,
            "update_passes": 24 if method in CAPTURED else 0,
            "tokens_per_pass": k,
            "tokens_per_row": k,
            "tokens_per_cost": 2.5 if method in CAPTURED else k,
            "tokens_per_second": 9.0,
        }
        if judge:
            row |= {"mauve": around(MAUVE.get(method, 0.95)), "nll": around(4.5)}
        if k == 4:
            captured = CAPTURED.get(method)
            row["kl"] = {
                path: {
                    "nats_per_token": around(0.65 * (1 - (captured or 0))),
                    "nats_per_round": around(2.6 * (1 - (captured or 0))),
                    "captured": captured and around(captured - less),
                }
                for path, less in (("recorded", 0), ("own", 0.02))
            }
        else:
            row["kl"] = {"own": {"nats_per_token": {"value": 0, "low": 0, "high": 0, "n": 0}}}
        methods.append(row)
    cost = {"full_seconds": 1.0, "update_seconds": 0.2, "ratio": 0.2, "batch": 16, "length": 32}
    return Results.model_validate(
        {
            "config": {"train": {"steps": 3}},
            "versions": {"torch": "2"},
            "machine": {"cores": 2, "memory_gib": 24.0, "gpu": None, "processor": "x"},
            "teacher": {
                "name": "tiny",
                "family": "stock",
                "fingerprint": "ab",
                "parameters": 4_800_000,
            },
            "sampler": {"width": 192, "parameters": 550_000},
            "judge": "smollm2" if judge else "none",
            "costs": {"joint": cost, "refresh": cost | {"ratio": 0.31}},
            "ceiling": around(0.95) if judge else None,
            "methods": methods,
            "examples": {
                "columns": ["sequential", "marginal, k = 4", "refresh, k = 4", "joint, k = 4"],
                "texts": [["a < b"], ["<script>"], ["c"], ["d"]],
                "unmaskings": [[unmasking(rounds)] for rounds in ([1, 1, 1], [3], [2, 1], [3])],
            },
        }
        | changes
    )


def interval(value: float, half: float = 0.1, n: int = 96) -> Interval:
    return Interval(value=value, low=value - half, high=value + half, n=n)


def with_statistics(results: Results) -> Results:
    """``results`` with two pairs, one of them inside the noise, a curve and a breakdown."""
    noise, known = interval(0.001, 0.01), interval(-0.5, 0.01)
    results.differences = [
        Difference(metric="nll", row="joint, k = 4", against="marginal, k = 4", value=noise),
        Difference(metric="nll", row="refresh, k = 4", against="joint, k = 4", value=known),
        Difference(metric="accuracy", row="joint, k = 4", against="sequential", value=known),
    ]
    points = [
        CurvePoint(title=title, accuracy=interval(y), tokens_per_pass=x, tokens_per_cost=x)
        for title, x, y in (("sequential", 1, 0.9), ("joint, k = 4", 2.5, 0.8))
    ]
    results.curves = [
        Curve(
            label="joint", points=points, aup=interval(210.0), aup_cost=interval(140.0),
            accuracy_at=[At(level=2.0, value=interval(0.85))],
            cost_at=[At(level=0.95, value=interval(1.7))],
        )
    ]  # fmt: skip
    near = Bin(low=1, high=1, reveals=40, nats=interval(0.5), captured=interval(0.9))
    far = Bin(low=17, high=None, reveals=9, nats=interval(0.1))
    results.of("refresh", 4).kl["recorded"].breakdown = {"distance": [near, far]}
    return results


def run_of(results: Results, **record) -> Run:
    return Run(results, RunRecord(name="night", **record))


def page_of(results: Results, folder, **record) -> str:
    return write_report(run_of(results, **record), folder).read_text()


def charts_in(page: str) -> list[str]:
    """The titles of the charts."""
    return re.findall(
        r'<svg class="chart" xmlns="[^"]+" viewBox="[^"]+" role="group" aria-label="([^"]+)"', page
    )


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))


def test_the_page_states_the_numbers(tmp_path):
    page = page_of(made(judge=True), tmp_path)
    said = words(page)
    assert "joint captures 77 % of the dependency" in said and "(75 % in its own order)" in said
    assert "0.149 instead of 0.650 nats per token" in said
    assert "MAUVE 0.81 instead of 0.32" in said
    assert "One refresh update costs 0.31 of a full pass" in said
    assert [title.partition(",")[0].partition(":")[0] for title in charts_in(page)] == [
        "Unconditional text", "Captured dependency", "Captured dependency",
        "NLL under the judge", "MAUVE against sequential samples",
    ]  # fmt: skip


def test_what_does_not_differ_from_marginal_beyond_the_noise_is_said_so_first(tmp_path):
    said = words(page_of(made(judge=True), tmp_path))  # NLL is 4.5 in every row
    assert "NLL 4.50 instead of 4.50 (inside the noise), MAUVE 0.81 instead of 0.32." in said
    assert "0.650 nats per token from the true joint, NLL" in said


def test_nothing_comes_from_elsewhere_and_only_the_pages_own_script_runs(tmp_path):
    page = page_of(made(judge=True), tmp_path)
    assert not re.search(r'(src|href)="(?!#|data:,)', page)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"<[^>]+ (style|on\w+)=", page)  # the policy would refuse them


def test_samples_are_text_wherever_they_stand(tmp_path):
    page = page_of(made(judge=True), tmp_path)
    assert "&lt;script&gt;" in page and page.count("<script>") == 1  # the page's own
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    lanes = json.loads(data)
    assert [lane["name"] for lane in lanes][:2] == ["sequential", "marginal, k = 4"]
    assert lanes[0]["rows"][0]["tokens"][0] == "</script>"
    hostile = made(True)
    hostile.teacher.name = hostile.config["name"] = "<img src=x onerror=alert(1)>"
    assert "<img" not in page_of(hostile, tmp_path)


def test_a_table_per_k_opens_with_sequential_and_kl_and_nll_come_before_mauve(tmp_path):
    results = made(judge=True)
    page = page_of(results, tmp_path)
    (table,) = re.findall(r"<h3>k = 4</h3>(.*?)</table>", page, flags=re.DOTALL)
    columns = re.findall(r'<th scope="col">([^<]+)</th>', table)
    places = [columns.index(name) for name in ("KL, nats per token", "NLL", "MAUVE")]
    assert places == sorted(places)
    assert "accuracy" not in columns  # no row has one
    names = re.findall(r'<th scope="row">([^<]+)</th>', table)
    assert names == ["sequential", "marginal", "refresh", "joint"]
    assert "0.1495 <small>[0.0995, 0.1995]</small>" in table


def test_a_method_with_a_stop_rule_has_a_table_of_its_own(tmp_path):
    results = made(judge=False)
    ruled = results.of("refresh", 4).model_copy(
        update={"method": "threshold", "setting": {"threshold": 0.9}, "update": "refresh"}
    )
    results.methods.append(ruled)
    page = page_of(results, tmp_path)
    (table,) = re.findall(r"<h3>Stop rules</h3>(.*?)</table>", page, flags=re.DOTALL)
    assert "threshold (refresh)" in table and "threshold = 0.9" in table


def test_a_saturated_mauve_is_marked(tmp_path):
    results = made(judge=True)
    assert results.saturated(results.of("refresh", 4))
    assert not results.saturated(results.of("joint", 4))
    page = page_of(results, tmp_path)
    (line,) = re.findall(r"<li>[^<]*refresh captures.*?</li>", page, flags=re.DOTALL)
    assert "within the ceiling's interval" in line


def test_a_sampling_without_a_judge_says_so(tmp_path):
    page = page_of(made(judge=False), tmp_path)
    assert "evaluate.judge=none" in page
    assert len(charts_in(page)) == 3  # the frontier, and captured in both orders


def test_the_temperature_of_the_kl_is_stated(tmp_path):
    assert "at temperature 0.1" in page_of(made(True, kl_temperature=0.1), tmp_path)


def test_a_report_of_one_generation_seed_claims_no_interval(tmp_path):
    results = made(True)
    for row in results.methods:
        row.mauve = row.mauve.model_copy(update={"low": None, "high": None, "n": 1})
    results.ceiling = results.methods[0].mauve
    assert "One generation seed gives no interval" in page_of(results, tmp_path)
    assert not results.saturated(results.of("refresh", 4))


def test_the_same_results_give_the_same_page(tmp_path):
    a, b = (page_of(made(True), tmp_path / name) for name in "ab")
    assert a == b


def test_every_point_of_the_frontier_has_a_name_and_a_row_in_the_table(tmp_path):
    page = page_of(made(judge=True), tmp_path)
    (section,) = re.findall(r'<section id="frontier".*?</section>', page, flags=re.DOTALL)
    named = re.findall(r'data-name="([^"]+)" data-value="([^"]+)"', section)
    assert ("joint, k = 4", "2.50 tokens per full pass, 0.1495 [0.0995, 0.1995] nats") in named
    assert len(named) == 4 == len(re.findall(r'<th scope="row">', section))
    assert section.count('tabindex="0" aria-label') == 1  # one stop of Tab


def test_the_frontier_leaves_out_what_another_setting_beats_in_both():
    assert frontier([(1, 0.0), (2, 0.3), (2, 0.1), (3, 0.2), (2.5, 0.4)]) == [
        (1, 0.0), (2, 0.1), (3, 0.2),
    ]  # fmt: skip
    results = made(False)
    assert points(results.methods)[0] == (1, 0.0)
    svg = frontier_svg(results.methods)
    assert svg.startswith("<svg") and "Pareto frontier" in svg and ">refresh</text>" in svg
    assert "prefers-color-scheme" in svg and "Prompted tasks" not in svg


def test_what_was_not_measured_has_no_section(tmp_path):
    page = page_of(made(judge=True), tmp_path)
    assert re.findall(r'<section id="([^"]+)"', page) == [
        "frontier", "by-k", "steps", "samples", "provenance",
    ]  # fmt: skip
    assert not re.search("AUP|nearest token", page[: page.index("<script>")])


def test_the_page_shows_where_the_kl_arises(tmp_path):
    page = page_of(with_statistics(made(judge=True)), tmp_path)
    (section,) = re.findall(r'<section id="where".*?</section>', page, flags=re.DOTALL)
    assert charts_in(section) == [
        "k = 4: KL by distance to the nearest token of the round, nats per reveal"
    ]
    named = re.findall(r'data-name="([^"]+)" data-value="([^"]+)"', section)
    assert named == [
        ("refresh, k = 4, 1", "0.5000 [0.4000, 0.6000] nats, 40 reveals, captured 0.900"),
        ("refresh, k = 4, 17+", "0.1000 [0.0000, 0.2000] nats, 9 reveals"),
    ]
    cells = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', section)
    assert [[words(cell) for cell in row] for row in cells] == [
        ["refresh, k = 4", "0.5000 [0.4000, 0.6000]", "0.1000 [0.0000, 0.2000]"],
        ["refresh, k = 4: captured", "0.900 [0.800, 1.000]", "–"],
    ]


def test_the_page_shows_accuracy_against_speed_and_what_is_read_off(tmp_path):
    page = page_of(with_statistics(made(judge=True)), tmp_path)
    (section,) = re.findall(r'<section id="accuracy".*?</section>', page, flags=re.DOTALL)
    assert 'data-value="0.800 [0.700, 0.900] right at 2.50 tokens per full pass"' in section
    said = words(section)
    for wanted in ("210.0 [209.9, 210.1]", "140.0 [139.9, 140.1]", "1.70 [1.60, 1.80]", "n = 96"):
        assert wanted in said


def test_a_pair_inside_the_noise_is_said_to_be_so(tmp_path):
    page = page_of(with_statistics(made(judge=True)), tmp_path)
    (section,) = re.findall(r'<section id="pairs".*?</section>', page, flags=re.DOTALL)
    assert "2 of 3 differences with an interval lie outside the noise" in words(section)
    assert re.findall(r"<summary><h3>(.*?)</h3>", section) == ["Against sequential", "k = 4"]
    worse, noise, less = re.findall(r'<td class="(\w+)">(.*?)</td>', section)
    assert noise[0] == "noise" and words(noise[1]).endswith("inside the noise")
    assert less[0] == "other" and words(less[1]) == "-0.500 [-0.510, -0.490] less"
    assert worse[0] == "worse" and "accuracy (n = 96; more is better)" in section


def sweep() -> SweepTable:
    """Two widths; the wider one captures more and has the better objective."""
    trials = [
        Trial(
            values={"sampler.width": width, "sampler.depth": 3}, objective=objective, ratio=0.2,
            nats={2: 0.1, 4: 0.3}, captured={2: captured, 4: captured - 0.1}, steps=8,
            stopped_early=False,
        )
        for width, objective, captured in ((64, 0.125, 0.8), (32, float("inf"), 0.6))
    ]  # fmt: skip
    return SweepTable(objective="nats_at_speed", target=2.0, trials=trials)


def test_the_heat_map_has_a_cell_per_trial_and_k_and_more_is_a_higher_level():
    heat = heat_map(sweep())
    assert heat["ks"] == [2, 4]
    assert heat["rows"] == [
        ("width 32, depth 3", False, [("0.600", 2), ("0.500", 0)]),
        ("width 64, depth 3", True, [("0.800", 7), ("0.700", 5)]),
    ]


def test_the_page_shows_every_trial_also_one_whose_target_is_out_of_reach(tmp_path):
    page = page_of(made(judge=False, sweep=sweep()), tmp_path)
    assert "The sweep" in page and "<td>inf</td>" in page
    assert any(title.startswith("Trials") for title in charts_in(page))


def test_the_page_puts_the_time_of_a_stage_beside_its_forecast(tmp_path):
    results = made(judge=False)
    assert "Forecast against" not in page_of(results, tmp_path)
    stages = {
        "train": StageRecord(
            seconds=209, forecast_seconds=190.0, commit="0123456789abcdef-changed"
        ),
        "evaluate": StageRecord(seconds=2.0),
    }
    page = page_of(results, tmp_path, stages=stages)
    section = page[page.index("<h3>Forecast against") : page.index("<h3>Provenance")]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in section.split("<tr>")[2:]]
    cells = [[words(cell) for cell in row] for row in rows]
    assert cells[0] == ["train", "190", "209", "+10 %", "", "–", "0123456789-changed"]
    assert cells[1] == ["evaluate", "–", "2", "–", "", "–", "–"]
    assert 'class="forecast" x="0" y="1" height="6" width="109.1"' in section  # of 120


def test_learning_curves_are_drawn_where_a_training_left_them(tmp_path):
    assert "Learning curves" not in page_of(made(judge=False), tmp_path)
    curve = [
        Report(step=1, loss=2.0),
        Report(step=2, loss=1.5, captured={4: 0.6}, nats={4: 0.2}),
    ]
    page = page_of(made(judge=False), tmp_path, curve=curve)
    assert 'data-name="loss, step 2" data-value="1.5000"' in page
    assert 'data-name="k = 4, step 2" data-value="0.6000"' in page


def test_the_page_says_where_the_run_comes_from(tmp_path):
    results = made(judge=False, config={"run": {"seed": 3}, "evaluate": {"generation_seeds": 2}})
    said = words(page_of(results, tmp_path, config_digest="d1", mlflow_run="r1"))
    for wanted in (
        "run.seed = 3",
        "evaluate.generation_seeds = 2",
        "d1",
        "r1",
        "torch 2",
        "2 cores",
    ):
        assert wanted in said
    assert "did not run from a checkout" in said


def test_results_survive_the_file_and_damage_is_named(tmp_path):
    path = tmp_path / "results.json"
    write_results(made(True), path)
    assert read_results(path) == made(True)
    broken = json.loads(path.read_text())
    broken["methods"][1].pop("samples")
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"methods\.1\.samples"):
        read_results(path)
    with pytest.raises(UserError, match="Cannot read"):
        read_results(tmp_path / "absent.json")


def test_a_tracker_gets_the_headline_numbers_under_short_names():
    flat = made(True).flat()
    assert flat["joint_k4/captured"] == 0.77 and flat["joint_k4/captured_own"] == 0.75
    assert flat["refresh_k4/tokens_per_cost"] == 2.5 and flat["refresh/cost_ratio"] == 0.31
    assert "sequential/nll" in flat
