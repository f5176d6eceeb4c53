"""The Markdown summary states what results.json holds, and leaves out what it does not."""

from __future__ import annotations

import re

from jointsampler.evaluation.measured import At, Bin, Curve, CurvePoint, Difference
from jointsampler.evaluation.stats import Interval
from jointsampler.report.markdown import markdown, table
from tests.report.test_report import made


def interval(value: float, half: float = 0.01) -> Interval:
    return Interval(value=value, low=value - half, high=value + half, n=96)


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with ``first``."""
    begin = text.index(f"| {first} |")
    lines = text[begin:].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_method_has_a_row_and_every_table_one_width():
    text = markdown(made(judge=True))
    rows = rows_of(text, "method")
    assert [row[0] for row in rows[2:]] == [
        "sequential", "marginal, k = 4", "refresh, k = 4", "joint, k = 4",
    ]  # fmt: skip
    refresh = dict(zip(rows[0], rows[4], strict=True))
    assert refresh["captured"] == "0.970 [0.920, 1.020]" and refresh["MAUVE"].startswith("0.940")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_what_was_not_measured_is_left_out():
    text = markdown(made(judge=False))
    for word in ("MAUVE", "NLL", "accuracy", "Pairs", "AUP", "Where the KL"):
        assert word not in text


def test_differences_curves_and_breakdowns_are_shown_where_there_are_any():
    results = made(judge=True)
    noise = Interval(value=0.001, low=-0.01, high=0.02, n=96)
    results.differences = [
        Difference(metric="nll", row="joint, k = 4", against="marginal, k = 4", value=noise),
        Difference(
            metric="nll", row="refresh, k = 4", against="joint, k = 4", value=interval(-0.5)
        ),
    ]
    point = CurvePoint(
        title="joint, k = 4", accuracy=interval(0.8), tokens_per_pass=4, tokens_per_cost=2.5
    )
    joint = Curve(
        label="joint",
        points=[point],
        aup=interval(210.0),
        aup_cost=interval(140.0),
        accuracy_at=[At(level=2.0, value=interval(0.85))],
        cost_at=[At(level=0.95, value=interval(1.7))],
    )
    results.curves = [joint]
    results.methods[2].kl["recorded"].breakdown = {
        "distance": [
            Bin(low=1, high=1, reveals=40, nats=interval(0.5), captured=interval(0.9)),
            Bin(low=17, high=None, reveals=9, nats=interval(0.1)),
        ]
    }
    text = markdown(results)
    assert "| nll | joint, k = 4 | marginal, k = 4 | no difference at n = 96 |" in text
    assert "| -0.5 [-0.51, -0.49], n = 96 |" in text
    assert "| joint | 210.0 | 140.0 | 0.850 [0.840, 0.860] | 1.700 [1.690, 1.710] |" in text
    assert rows_of(text, "distance to a revealed token") == [
        ["distance to a revealed token", "1", "17 or more"], ["---"] * 3,
        ["refresh, k = 4", "0.5000 (90 %)", "0.1000"],
    ]  # fmt: skip


def test_a_bar_in_a_name_does_not_split_a_cell():
    assert table(["a", "b"], [["x|y", "1"]]).splitlines()[2] == "| x\\|y | 1 |"
