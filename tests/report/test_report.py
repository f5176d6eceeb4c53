"""The report states what results.json holds, with and without a judge."""

from __future__ import annotations

import json
import re

import pytest

from jointsampler import UserError
from jointsampler.evaluation.results import (
    Results,
    StageTime,
    frontier,
    points,
    read_results,
    write_results,
)
from jointsampler.report.page import write_report
from jointsampler.report.plots import frontier_svg


def around(value: float) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 64}


CAPTURED = {"refresh": 0.97, "joint": 0.77}
MAUVE = {"marginal": 0.32, "refresh": 0.94, "joint": 0.81}


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
            },
        }
        | changes
    )


def test_the_page_is_self_contained_and_states_the_numbers(tmp_path):
    page = write_report(made(judge=True), tmp_path).read_text()
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    assert "joint captures 77 % of the dependency" in said and "(75 % in its own order)" in said
    assert "0.149 instead of 0.650 nats per token" in said
    assert "MAUVE 0.81 instead of 0.32" in said
    assert "One refresh update costs 0.31 of a full pass" in said
    assert page.count("<svg") == 4  # captured, NLL, MAUVE, cost
    assert not re.search(r'(src|href)="https?:', page)
    assert "<script>" not in page and "&lt;script&gt;" in page  # samples are text, not markup
    assert 'name="viewport"' in page and "@media print" in page
    assert (tmp_path / "summary.svg").read_text().startswith("<svg")


def test_kl_and_nll_come_before_mauve_and_a_saturated_mauve_is_marked(tmp_path):
    results = made(judge=True)
    page = write_report(results, tmp_path).read_text()
    columns = re.findall(r"<th>([^<]+)</th>", page)
    places = [columns.index(name) for name in ("KL, nats per token", "NLL", "MAUVE")]
    assert places == sorted(places)
    assert results.saturated(results.of("refresh", 4))
    assert not results.saturated(results.of("joint", 4))
    (line,) = re.findall(r"<li>[^<]*refresh captures.*?</li>", page, flags=re.DOTALL)
    assert "within the ceiling's interval" in line


def test_a_sampling_without_a_judge_says_so(tmp_path):
    page = write_report(made(judge=False), tmp_path).read_text()
    assert "evaluate.judge=none" in page
    assert page.count("<svg") == 2  # captured, cost


def test_the_temperature_of_the_kl_is_stated(tmp_path):
    page = write_report(made(True, kl_temperature=0.1), tmp_path).read_text()
    assert "at temperature 0.1" in page


def test_a_report_of_one_generation_seed_claims_no_interval(tmp_path):
    results = made(True)
    for row in results.methods:
        row.mauve = row.mauve.model_copy(update={"low": None, "high": None, "n": 1})
    results.ceiling = results.methods[0].mauve
    page = write_report(results, tmp_path).read_text()
    assert "One generation seed gives no interval" in page
    assert not results.saturated(results.of("refresh", 4))


def test_the_same_results_give_the_same_page(tmp_path):
    a, b = (write_report(made(True), tmp_path / name).read_text() for name in "ab")
    assert a == b


def test_the_frontier_leaves_out_what_another_setting_beats_in_both():
    assert frontier([(1, 0.0), (2, 0.3), (2, 0.1), (3, 0.2), (2.5, 0.4)]) == [
        (1, 0.0), (2, 0.1), (3, 0.2),
    ]  # fmt: skip
    results = made(False)
    assert points(results.methods)[0] == (1, 0.0)
    svg = frontier_svg(results.methods)
    assert svg.startswith("<svg") and "Pareto frontier" in svg and "refresh" in svg
    assert "Prompted tasks" not in svg


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


def test_the_page_puts_the_time_of_a_stage_beside_its_forecast(tmp_path):
    results = made(judge=False)
    assert "forecast" not in write_report(results, tmp_path).read_text()
    results.stages = {"train": StageTime(seconds=210.2, forecast_seconds=190.0)}
    results.stages["report"] = StageTime(seconds=2.0)
    page = write_report(results, tmp_path).read_text()
    assert "<td>train</td><td>210</td><td>190</td>" in page
    assert "<td>report</td><td>2</td><td>–</td>" in page
