"""The report says what results.json holds, with and without a judge."""

from __future__ import annotations

import json
import re

import pytest

from jointsampler import UserError
from jointsampler.evaluation.results import Results, read_results
from jointsampler.report.page import write_report


def made(judge: bool) -> Results:
    def around(value: float) -> dict:
        return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 64, "sd": 0.025}

    methods = []
    for method, k in (("sequential", 1), ("marginal", 4), ("joint", 4)):
        row = {
            "method": method,
            "k": k,
            "samples": 64,
            "teacher_passes": 32 / k,
            "teacher_rows": 32 / k,
            "sampler_passes": 0,
            "tokens_per_teacher_pass": k,
            "cost_weighted_tokens_per_pass": k,
            "tokens_per_second": 9.0,
        }
        if judge:
            row |= {
                "mauve": around({"joint": 0.81, "marginal": 0.32}.get(method, 0.95)),
                "nll": around(4.5),
            }
        if k == 4:
            captured = around(0.77) if method == "joint" else None
            row["block_kl"] = {
                "nats": around(0.6 if captured else 2.6),
                "captured": captured,
                "blocks": 512,
            }
        methods.append(row)
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
            "sampler": {"width": 192, "layers": 1, "parameters": 550_000},
            "judge": "smollm2" if judge else "none",
            "pass_cost": {"ratio": 0.2},
            "ceiling": {"mauve": around(0.95)} if judge else None,
            "methods": methods,
            "examples": {
                "columns": ["sequential, k = 1", "marginal, k = 4", "joint, k = 4"],
                "texts": [["a < b"], ["<script>"], ["c"]],
            },
        }
    )


def test_the_page_is_self_contained_and_states_the_numbers(tmp_path):
    page = write_report(made(judge=True), tmp_path).read_text()
    assert "77 %" in page and "MAUVE 0.81 instead of 0.32" in page
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="https?:', page)
    assert "<script>" not in page and "&lt;script&gt;" in page  # samples are text, not markup
    assert 'name="viewport"' in page and "@media print" in page
    assert (tmp_path / "summary.svg").read_text().startswith("<svg")


def test_without_a_judge_the_page_says_so(tmp_path):
    page = write_report(made(judge=False), tmp_path).read_text()
    assert "evaluate.judge=none" in page
    assert page.count("<svg") == 1


def test_the_same_results_give_the_same_page(tmp_path):
    a, b = (write_report(made(True), tmp_path / name).read_text() for name in "ab")
    assert a == b


def test_results_survive_the_file_and_damage_is_named(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(made(True).model_dump_json())
    assert read_results(path) == made(True)
    broken = json.loads(path.read_text())
    broken["methods"][1].pop("k")
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"methods\.1\.k"):
        read_results(path)
    with pytest.raises(UserError, match="Cannot read"):
        read_results(tmp_path / "absent.json")
