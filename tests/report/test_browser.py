"""The pages in headless Chromium: phone and desktop, light and dark, keyboard alone.

Needs Chromium, and the packages of ``pip install 'jointsampler[browser]'``. With
$REPORT_SCREENSHOTS naming a folder, a picture of every page is left there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from jointsampler import JointSampler, Refresh, generate
from jointsampler.corpus.sample import SampleSettings
from jointsampler.corpus.trajectories import Trajectories
from jointsampler.evaluation.collect import Collected
from jointsampler.evaluation.cost import UpdateCost
from jointsampler.evaluation.differences import as_units, differences
from jointsampler.evaluation.items import Evaluator, list_items, method_pairs
from jointsampler.evaluation.measured import Metric
from jointsampler.evaluation.parallelism import curves
from jointsampler.evaluation.results import MethodResult
from jointsampler.evaluation.stats import bootstrap
from jointsampler.report.curve import CurvePoint
from jointsampler.report.page import write_comparison, write_report
from jointsampler.report.record import Run, RunRecord, StageRecord
from tests.report.test_report import made, sweep

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PACKAGES = ("playwright", "axe_playwright_python")
missing = [name for name in PACKAGES if find_spec(name) is None] + ["chromium"] * (CHROMIUM is None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]

SCREENS = [
    (width, height, scheme)
    for width, height in ((390, 844), (1280, 900))
    for scheme in ("light", "dark")
]
COST = UpdateCost(full_seconds=1.0, update_seconds=0.2, ratio=0.2, batch=16, length=16)
SERIOUS = ("serious", "critical")


def measured(tiny, seed: int) -> Run:
    """A small evaluation with the shipped sampler, and what a training and a sweep leave."""
    truth = generate(tiny, method="sequential", num_samples=6, max_new_tokens=16, seed=9)
    evaluator = Evaluator(
        tiny, JointSampler.from_pretrained("tiny"), Refresh(4), None,
        SampleSettings(seed, 16), Trajectories.from_generation(truth, 9, tiny), shown=3,
    )  # fmt: skip
    pairs = method_pairs(["marginal", "refresh", "joint"], [2])
    items = list_items(pairs, 4, 1, 4, 6)
    done = Collected((item, evaluator.do(item, pairs)) for item in items)
    results = made(judge=False, sweep=sweep())
    results.methods = done.results(pairs, dict.fromkeys(("refresh", "joint"), COST))
    answered(results.methods)
    results.differences, results.curves = differences(results.methods), curves(results.methods)
    results.items = dict.fromkeys(get_args(Metric), "the same")
    results.examples = done.examples(pairs, 3)
    curve = [
        CurvePoint(step=step, loss=3 / step, captured={4: 1 - 1 / step} if step % 4 == 0 else {})
        for step in range(1, 30)
    ]
    stages = {
        "train": StageRecord(seconds=20, forecast_seconds=25.0, finished="2026-01-02T03:04:05")
    }
    return Run(results, RunRecord(name=f"seed-{seed}", stages=stages, curve=curve))


def answered(rows: list[MethodResult]) -> None:
    """Give every row accuracies and speeds on 40 made prompts."""
    lots = np.random.default_rng(0).random(40)
    for row in rows:
        right = (lots > 0.1 * (row.k or 1)).astype(float)
        ones, tokens = np.ones(40), np.full(40, 8.0)
        for metric, under, over in (
            ("accuracy", ones, right),
            ("task_tokens_per_pass", tokens / (row.k or 1), tokens),
            ("task_tokens_per_cost", tokens / row.tokens_per_cost, tokens),
        ):
            row.units[metric] = as_units(np.stack([over, under], axis=1))
        row.accuracy = bootstrap(lambda mean: mean[..., 0], right[:, None])
        row.task_tokens_per_pass = float(row.k or 1)
        row.task_tokens_per_cost = row.tokens_per_cost


@pytest.fixture(scope="module")
def pages(tiny, tmp_path_factory) -> dict[str, Path]:
    runs = [measured(tiny, seed) for seed in (0, 1)]
    folder = tmp_path_factory.mktemp("pages")
    return {
        "report": write_report(runs[0], folder / "report"),
        "comparison": write_comparison(runs, folder / "comparison"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without Chromium's own sandbox, because tests may run as root; the page is our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page on one screen, and what it said and asked for."""

    def __init__(self, browser, place: Path, width: int = 1280, height: int = 900, scheme="light"):
        self.said: list[str] = []
        self.asked: list[str] = []
        size = {"width": width, "height": height}
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)  # a busy machine is slow
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(place.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *exc: object) -> None:
        self.context.close()

    def texts(self) -> list[str]:
        return self.page.locator("#lanes pre").all_text_contents()

    def focused(self) -> str:
        return self.page.evaluate(
            "document.activeElement.id || document.activeElement.dataset?.name"
        )

    def tab_to(self, name: str) -> None:
        for _ in range(80):
            if self.focused() == name:
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {name}")


@pytest.mark.parametrize("kind", ["report", "comparison"])
@pytest.mark.parametrize(("width", "height", "scheme"), SCREENS)
def test_no_error_no_request_no_serious_violation(browser, pages, kind, width, height, scheme):
    import axe_playwright_python

    axe = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
    with Visit(browser, pages[kind], width, height, scheme) as visit:
        page = visit.page
        page.evaluate(axe)
        found = page.evaluate("axe.run(document)")
        rules = [
            (v["id"], v["nodes"][0]["html"]) for v in found["violations"] if v["impact"] in SERIOUS
        ]
        assert rules == []
        assert len(found["passes"]) > 20  # it looked
        assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
        assert visit.said == []
        assert visit.asked == [pages[kind].as_uri()] or visit.asked == [
            pages[kind].as_uri(),
            "data:,",
        ]
        if folder := os.environ.get("REPORT_SCREENSHOTS"):
            place = Path(folder) / f"{kind}-{width}-{scheme}.png"
            page.screenshot(path=place, full_page=True)


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_a_script_from_elsewhere_is_refused(browser, pages, kind):
    with Visit(browser, pages[kind]) as visit:
        visit.page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'),"
            " {textContent: 'window.ran = true'}))"
        )
        assert visit.page.evaluate("window.ran === undefined")
        assert any("Content Security Policy" in text for text in visit.said)


def test_the_step_through_is_driven_by_the_keyboard_alone(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        keys = visit.page.keyboard
        assert len(visit.texts()) == 4 and all(set(text) <= set("░\n") for text in visit.texts())
        visit.tab_to("step-at")
        keys.press("ArrowRight")
        status = visit.page.locator("#step-status").text_content()
        assert (
            "After round 1: sequential: 1 of 16 tokens; marginal, k = 2: 2 of 16 tokens" in status
        )
        assert visit.page.locator("#lanes .newest").count() == 1 + 3 * 2
        keys.press("End")
        assert visit.page.locator("#step-at").get_attribute("aria-valuetext") == "Round 16 of 16"
        assert not any("░" in text for text in visit.texts())
        keys.press("Home")
        keys.press("Shift+Tab")
        assert visit.focused() == "step-forward"
        keys.press("Enter")
        assert visit.page.locator("#step-at").input_value() == "1"
        assert visit.said == []


def test_tokens_of_one_round_share_a_colour_and_the_end_state_is_the_sample(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        visit.page.locator("#step-at").fill("2")
        lane = visit.page.locator("#lanes .lane").nth(1)  # marginal, k = 2
        looks = [lane.locator(f".token.r{number}").count() for number in (0, 1, 2)]
        assert looks == [2, 2, 0]
        visit.page.locator("#step-at").fill("16")
        shown = [text.replace("⏎\n", "\n") for text in visit.texts()]
        kept = visit.page.locator(".sample").nth(0).locator("pre").all_text_contents()[:4]
        assert all(a.startswith(b) for a, b in zip(shown, kept, strict=True))


def test_stepping_by_token_other_samples_and_methods_can_be_chosen(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        page = visit.page
        page.get_by_label("token", exact=True).check()
        page.locator("#step-forward").click()
        assert "After token 1: sequential: 1 of 16 tokens; marginal, k = 2: 1 of 16" in (
            page.locator("#step-status").text_content()
        )
        page.locator("#step-at").fill("16")
        first = visit.texts()
        page.locator("#step-sample").select_option(index=1)
        assert visit.texts() != first
        page.get_by_role("checkbox", name="marginal, k = 2", exact=True).uncheck()
        assert len(visit.texts()) == 3


def test_playing_ends_at_the_last_round(browser, pages):
    from playwright.sync_api import expect

    with Visit(browser, pages["report"]) as visit:
        page = visit.page
        page.locator("#step-at").fill("13")
        page.locator("#step-play").press("Enter")
        assert page.locator("#step-play").text_content() == "Pause"
        expect(page.locator("#step-play")).to_have_text("Play")
        assert page.locator("#step-at").input_value() == "16"


def test_arrow_keys_walk_through_the_points_of_a_chart_and_name_them(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        page = visit.page
        visit.tab_to("sequential")
        page.keyboard.press("ArrowRight")
        assert ", k = " in visit.focused()
        tip = page.locator("#frontier .tip").text_content()
        assert tip.startswith(visit.focused()) and "tokens per full pass" in tip
        page.keyboard.press("Escape")
        assert page.locator(".tip").count() == 0
        page.keyboard.press("Tab")
        assert ", k = " not in (visit.focused() or "")  # one stop of Tab for the whole chart


def test_the_parts_that_are_closed_open_by_the_keyboard(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        closed = visit.page.locator("#pairs details").last
        assert not closed.locator("table").is_visible()
        closed.locator("summary").focus()
        visit.page.keyboard.press("Enter")
        assert closed.locator("table").is_visible()
        visit.page.keyboard.press("Tab")  # the table scrolls, so it is a stop of its own
        assert closed.locator(".scroll").evaluate("e => e === document.activeElement")


def test_the_pointer_names_the_point_that_it_is_on(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        page = visit.page
        point = page.locator("#frontier svg:not(.key) .point").last
        point.locator(".mark").hover()
        assert page.locator("#frontier .tip .name").text_content() == point.get_attribute(
            "data-name"
        )
        page.mouse.move(2, 2)
        assert page.locator(".tip").count() == 0


def test_the_sample_browser_shows_one_sample_and_finds_texts(browser, pages):
    with Visit(browser, pages["report"]) as visit:
        page = visit.page
        samples = page.locator(".sample")
        assert [samples.nth(i).is_visible() for i in range(3)] == [True, False, False]
        page.locator("#sample-forward").press("Enter")
        assert [samples.nth(i).is_visible() for i in range(3)] == [False, True, False]
        text = samples.nth(2).locator("pre").first.text_content().split("\n")[0]
        page.locator("#sample-find").fill(text)
        assert samples.nth(2).is_visible() and not samples.nth(1).is_visible()
        assert page.locator(".sample mark").first.text_content() == text
        page.locator("#sample-find").fill("")
        page.locator("#sample-all").check()
        assert all(samples.nth(i).is_visible() for i in range(3))


def test_without_a_script_the_texts_and_tables_are_all_there(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    assert all(page.locator(".sample").nth(i).is_visible() for i in range(3))
    assert not page.locator("#stepper").is_visible()
    context.close()
