"""README and docs: every link resolves, every command parses, every example runs."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from lm_eval._cli.run import Run

from jointsampler.cli import (
    benchmark,
    check_results,
    compare,
    generate,
    report,
    tune,
    verify_corpus,
)
from jointsampler.cli.common import parse_settings
from jointsampler.config import load_config
from jointsampler.decoding.methods import METHODS, get_method
from jointsampler.decoding.orders import ORDERS
from jointsampler.errors import UserError
from jointsampler.harness.command import TASKS
from jointsampler.harness.settings import read_settings
from jointsampler.teachers.families import FAMILIES
from tests.support.sandbox import need_sandbox
from workflows import cli as run_cli
from workflows import prefetch

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CARDS = [
    ROOT / "cluster/README.md",
    *(ROOT / "jointsampler" / kind / "tiny" / "README.md" for kind in ("teachers", "samplers")),
]
ANIMATION = ROOT / "docs/assets/unmasking.svg"
COMMANDS = {
    "generate": generate,
    "tune": tune,
    "compare": compare,
    "report": report,
    "check-results": check_results,
    "benchmark": benchmark,
    "verify-corpus": verify_corpus,
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's bash blocks."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


class Refusing(argparse.ArgumentParser):
    """A parser that raises instead of leaving the process."""

    def error(self, message: str):
        raise UserError(message)


def check(words: list[str]) -> None:
    """UserError unless a command of ours names things that exist."""
    if words[:3] == ["ray", "job", "submit"]:
        check(words[words.index("--") + 1 :])
    elif words[:2] == ["jointsampler", "run"]:
        check_stage(words[2:])
    elif words[:2] == ["jointsampler", "prefetch"]:
        check_prefetch(words[2:])
    elif words[:2] in (["jointsampler", "lm-eval"], ["jointsampler", "lm-eval-ray"]):
        check_harness(words[2:])
    elif words[0] == "jointsampler":
        check_library_command(words[1], words[2:])
    elif words[0] == "python":
        check_python(words[1:])
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if words[1] not in targets:
            raise UserError(f"the Makefile has no target {words[1]}")


def check_stage(words: list[str]) -> None:
    parser = run_cli.parser()
    parser.error = lambda message: Refusing.error(parser, message)
    args = parser.parse_intermixed_args(words)
    load_config(run_cli.config_file(args.config), args.overrides)


def check_prefetch(words: list[str]) -> None:
    parser = prefetch.parser()
    parser.error = lambda message: Refusing.error(parser, message)
    args = parser.parse_intermixed_args(words)
    load_config(run_cli.config_file(args.config), args.overrides)


def check_harness(words: list[str]) -> None:
    """Arguments of lm-evaluation-harness, and our own in --model_args."""
    parser = Refusing()
    Run.create(parser.add_subparsers())
    args = parser.parse_args(["run", *words])
    given = dict(args.model_args or {})
    given.pop("actors", None)  # of lm-eval-ray
    read_settings(given)
    for task in args.tasks[0].split(","):
        known = {path.stem for path in TASKS.glob("*.yaml")}
        if task.startswith("jointsampler_") and task.removeprefix("jointsampler_") not in known:
            raise UserError(f"there is no task {task}")


def check_library_command(name: str, words: list[str]) -> None:
    parser = Refusing()
    if name not in COMMANDS:
        raise UserError(f"jointsampler has no command {name}")
    COMMANDS[name].add_arguments(parser)
    args = parser.parse_args(words)
    if name == "generate" and args.method is not None:
        parse_settings(args.set, args.method)
    for method in getattr(args, "methods", None) or ():
        get_method(method)


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        if importlib.util.find_spec(words[1]) is None:
            raise UserError(f"there is no module {words[1]}")
        if words[1] == prefetch.__name__:
            check_prefetch(words[2:])
    elif not (ROOT / words[0]).is_file():
        raise UserError(f"there is no file {words[0]}")
    elif words[0] == "workflows/pipeline.py":
        check_stage(["pipeline", *words[1:]])


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=name_of)
def test_relative_links_resolve(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page):
    for words in commands(page):
        check(words)


@pytest.mark.parametrize(
    "wrong",
    [
        "jointsampler generat",
        "jointsampler generate --methd joint",
        "jointsampler generate --method klass",
        "jointsampler generate --method adaptive --set threshold=0.1",
        "jointsampler compare --methods refesh",
        "jointsampler lm-eval --tasks jointsampler_srot",
        "jointsampler lm-eval --model_args method=refesh --tasks jointsampler_sort",
        "jointsampler lm-eval --modl_args method=refresh --tasks jointsampler_sort",
        "jointsampler run tarin --out DIR",
        "jointsampler run train --config quickstrat --out DIR",
        "jointsampler run train --config quickstart --out DIR train.step=3",
        "ray job submit -- python workflows/pipeline.py --config quickstart --out DIR corpus.row=3",
        "python workflows/train.py",
        "python -m workflows.pretrain",
        "make tests",
    ],
)
def test_a_wrong_command_is_found(wrong):
    with pytest.raises(UserError):
        check(shlex.split(wrong))


@pytest.fixture
def registries():
    """Examples may register things; afterwards they are gone."""
    kept = [(registry, dict(registry)) for registry in (ORDERS, METHODS, FAMILIES)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_examples_run(page, registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOINTSAMPLER_CACHE", str(tmp_path))
    if "solved(" in page.read_text():  # a program runs
        need_sandbox()
    namespace: dict = {}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, python block {number}", "exec"), namespace)


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 130


def test_the_readme_has_one_results_table_of_at_most_six_rows():
    (results,) = re.findall(
        r"<!-- results.*?<!-- end of results -->", README.read_text(), re.DOTALL
    )
    rows = [line for line in results.splitlines() if line.startswith("|")]
    assert len(rows) - 2 <= 6  # without the heading and its rule


def test_every_page_is_in_the_navigation():
    named = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(named) == sorted(page.name for page in PAGES[1:])


def test_the_animation_is_small_and_self_contained():
    assert ANIMATION.stat().st_size <= 1 << 20
    text = ANIMATION.read_text()
    ElementTree.fromstring(text)
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme" in text and "prefers-reduced-motion" in text


def test_the_code_draws_the_animation(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("animate", ROOT / "docs/animate.py")
    animate = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "animate", animate)  # its dataclasses look it up
    spec.loader.exec_module(animate)
    out = tmp_path / "unmasking.svg"
    monkeypatch.setattr(sys, "argv", ["animate.py", "--out", str(out), "--cost", "0.25"])
    animate.main()
    drawn = out.read_text()
    ElementTree.fromstring(drawn)
    assert "64 full passes" in drawn and "16 full passes + 48 updates" in drawn
