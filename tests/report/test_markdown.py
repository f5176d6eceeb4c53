"""The Markdown summary states what results.json holds, and leaves out what it does not."""

from __future__ import annotations

import re

from jointsampler.report.markdown import markdown, table
from tests.report.test_report import made, with_statistics


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
    text = markdown(with_statistics(made(judge=True)))
    assert "| nll | joint, k = 4 | marginal, k = 4 | no difference at n = 96 |" in text
    assert "| -0.5 [-0.51, -0.49], n = 96 |" in text
    assert rows_of(text, "method") and rows_of(text[text.index("## Accuracy against") :], "method") == [
        ["method", "AUP", "AUP by cost", "accuracy at 2 times sequential's speed",
         "times sequential's speed at 95% of its accuracy"],
        ["---"] * 5,
        ["joint", "210.0 [209.9, 210.1]", "140.0 [139.9, 140.1]", "0.850 [0.750, 0.950]",
         "1.70 [1.60, 1.80]"],
    ]  # fmt: skip
    title = "distance to the nearest token of the round"
    assert rows_of(text, title) == [
        [title, "1", "17+"], ["---"] * 3,
        ["refresh, k = 4", "0.5000 [0.4000, 0.6000]", "0.1000 [0.0000, 0.2000]"],
        ["refresh, k = 4: captured", "0.900 [0.800, 1.000]", "–"],
    ]  # fmt: skip


def test_a_bar_in_a_name_does_not_split_a_cell():
    assert table(["a", "b"], [["x|y", "1"]]).splitlines()[2] == "| x\\|y | 1 |"
