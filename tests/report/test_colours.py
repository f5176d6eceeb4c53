"""What is written or drawn on a colour can be read on it, in light and in dark (WCAG 2.1, AA)."""

from __future__ import annotations

import re
from importlib import resources

import pytest

TEXT, GRAPHICS = 4.5, 3.0  # least contrast
RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")


def declared(text: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for selectors, body in RULE.findall(text):
        pairs = (pair.split(":", 1) for pair in body.split(";") if ":" in pair)
        values = {name.strip(): value.strip() for name, value in pairs}
        for selector in selectors.split(","):
            found.setdefault(selector.strip(), {}).update(values)
    return found


def colours(dark: bool) -> dict[str, dict[str, str]]:
    """Selector -> its declarations; those for dark lie over the others."""
    folder = resources.files("jointsampler.report") / "templates"
    text = "".join((folder / name).read_text() for name in ("chart.css", "page.css"))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    block = r"@media \(prefers-color-scheme: dark\) \{((?:[^{}]*\{[^{}]*\})*)\s*\}"
    darks = re.findall(block, text)
    assert len(darks) == 4  # the charts, the page, its heat map, its tokens
    found = declared(re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*\s*\}", "", text))
    if dark:
        for selector, values in declared("".join(darks)).items():
            found.setdefault(selector, {}).update(values)
    return found


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_black_on_white_has_the_contrast_that_wcag_states():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_marks_stand_out_from_the_page(dark):
    root = colours(dark)[":root"]
    for paper in ("--paper", "--panel"):
        for name in ("--ink", "--soft", "--link", "--good", "--bad"):
            assert contrast(root[name], root[paper]) >= TEXT, (name, paper)
    for number in range(10):
        assert contrast(root[f"--c{number}"], root["--paper"]) >= GRAPHICS, number
    for name in ("--c2", "--c3"):  # methods' names in tables
        assert contrast(root[name], root["--paper"]) >= TEXT


@pytest.mark.parametrize("dark", [False, True])
def test_tokens_and_cells_can_be_read_on_their_colours(dark):
    found = colours(dark)
    ink = found[":root"]["--token-ink"]
    for number in range(8):
        assert contrast(ink, found[f".r{number}"]["--token"]) >= TEXT, number
        cell = found[f".h{number}"]
        assert contrast(cell["color"], cell["background"]) >= TEXT, number
