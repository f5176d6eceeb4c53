"""Draw docs/assets/unmasking.svg: one token per full pass beside four, on one clock.

    python docs/animate.py

Runs the embedded teacher twice with the same prompt and seed, records every reveal
with ``on_reveal``, and writes one SVG animated by CSS alone. Time is counted in full
passes; an update takes the share of a full pass that is measured here. A token has
the colour of its round. What the methods do is in ``jointsampler/decoding/``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from html import escape
from pathlib import Path

from jointsampler import Refresh, Teacher, generate, load_teacher
from jointsampler.decoding.canvas import Canvas
from jointsampler.evaluation.cost import update_cost

PROMPT, LENGTH, K, TEMPERATURE, SEED, ROW = "def main(", 64, 4, 0.7, 0, 8
SECONDS_PER_PASS, HOLD = 0.2, 3.0  # the clock; seconds for which the finished text stays
COLUMNS, CHAR, LINE = 48, 7.8, 18.0  # characters per line, pixels per character and per line
PANEL, TOP, EDGE = 408, 58, 16  # panel width, first baseline, margin
ASSET = Path(__file__).parent / "assets" / "unmasking.svg"

# Both palettes have a contrast of at least 4.5 to their background.
STYLE = """
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}
.title{font-weight:600}.panel{fill:#f6f8fa;stroke:#d0d7de}.mask{fill:#d0d7de}.track{fill:#d0d7de}
.title,.prompt{fill:#1f2328}.note,.count{fill:#59636e}
.c0{fill:#0550ae}.c1{fill:#a01f6b}.c2{fill:#116329}.c3{fill:#8a4600}.c4{fill:#6639ba}.c5{fill:#b3261e}
@media (prefers-color-scheme:dark){.panel{fill:#151b23;stroke:#3d444d}.mask,.track{fill:#3d444d}
.title,.prompt{fill:#f0f6fc}.note,.count{fill:#9198a1}
.c0{fill:#79c0ff}.c1{fill:#ff9bce}.c2{fill:#7ee787}.c3{fill:#ffb757}.c4{fill:#d2a8ff}.c5{fill:#ffa198}}
@media (prefers-reduced-motion:reduce){*{animation:none!important}.mask,.before{opacity:0}}
"""


@dataclass(frozen=True)
class Reveal:
    time: float  # in full passes since the start
    round: int
    text: str


@dataclass(frozen=True)
class Run:
    title: str
    reveals: list[Reveal]  # by position
    full_passes: int
    updates: int
    time: float  # in full passes


def record(
    teacher: Teacher, update: Refresh | None, method: str, k: int, cost: float, title: str
) -> Run:
    """One sample, with the time at which each position was revealed."""
    times: dict[int, tuple[float, int]] = {}

    def watch(canvas: Canvas) -> None:
        reveal = int(canvas.revealed[0]) - 1
        spent = int(canvas.teacher_passes[0]) + cost * int(canvas.update_passes[0])
        times[int(canvas.order[0, reveal])] = (spent, int(canvas.round[0, reveal]))

    out = generate(
        teacher, update, [PROMPT], method=method, k=k, max_new_tokens=LENGTH,
        temperature=TEMPERATURE, seed=SEED, row_ids=[ROW], on_reveal=watch,
    )  # fmt: skip
    tokens = out.responses[0].tolist()
    reveals = [
        Reveal(*times[place], teacher.tokenizer.decode([token]))
        for place, token in enumerate(tokens)
    ]
    passes, updates = int(out.teacher_passes[0]), int(out.update_passes[0])
    return Run(title, reveals, passes, updates, passes + cost * updates)


class Film:
    """Elements and their keyframes over one cycle of ``seconds``."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.rules: dict[str, str] = {}
        self.body: list[str] = []

    def keyframes(self, begin: float, end: float | None = None) -> str:
        """The class of an element that is shown from ``begin`` to ``end`` (seconds)."""
        first = 100 * begin / self.seconds
        last = 99.9 if end is None else 100 * end / self.seconds
        name = f"s{first:.2f}_{last:.2f}".replace(".", "-")
        before = "0%{opacity:0}" if first > 0 else ""
        self.rules[name] = (
            f"@keyframes {name}{{{before}{first:.2f}%{{opacity:1}}{last:.2f}%{{opacity:0}}}}"
            f".{name}{{animation:{name} {self.seconds:.2f}s infinite step-end}}"
        )
        return name

    def add(self, element: str) -> None:
        self.body.append(element)

    def text(self, x: float, y: float, text: str, kind: str) -> None:
        """Text of a fixed width per character, so that every font gives the same layout."""
        width = f' textLength="{len(text) * CHAR:.1f}"' if len(text) > 1 else ""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{width}>{escape(text)}</text>')


def pieces(text: str, column: int, line: int) -> tuple[list[tuple[int, int, str]], int, int]:
    """([(column, line, part)] of a token's text, the column and line behind it)."""
    parts: list[tuple[int, int, str]] = []
    for n, stretch in enumerate(text.split("\n")):
        if n:
            parts.append((column, line, "\n"))
            column, line = 0, line + 1
        while stretch:
            if column >= COLUMNS:
                column, line = 0, line + 1
            part, stretch = stretch[: COLUMNS - column], stretch[COLUMNS - column :]
            parts.append((column, line, part))
            column += len(part)
    return parts, column, line


def draw(film: Film, run: Run, left: float, bottom: float) -> None:
    """One panel: title, text as it is revealed, and the clock below."""
    film.text(left + EDGE, 30, run.title, "title")
    film.text(left + EDGE, TOP, PROMPT, "prompt")
    column, line = len(PROMPT), 0
    for reveal in run.reveals:
        parts, column, line = pieces(reveal.text, column, line)
        shown = film.keyframes(reveal.time * SECONDS_PER_PASS)
        masked = film.keyframes(0, reveal.time * SECONDS_PER_PASS)
        for at, row, part in parts:
            x, y = left + EDGE + at * CHAR, TOP + row * LINE
            width = max(1, len(part)) * CHAR - 1.4
            film.add(
                f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="{width:.1f}" height="14" rx="2" '
                f'class="mask {masked}"/>'
            )
            if part.strip():
                # Leading blanks would be stretched with the text.
                start = len(part) - len(part.lstrip())
                film.text(x + start * CHAR, y, part.strip(), f"c{reveal.round % 6} {shown}")
    draw_clock(film, run, left, bottom)


def draw_clock(film: Film, run: Run, left: float, bottom: float) -> None:
    """A bar that fills until the run has ended, and the number of rounds so far."""
    width, seconds = PANEL - 2 * EDGE, run.time * SECONDS_PER_PASS
    name = f"bar{run.full_passes}"
    end = 100 * seconds / film.seconds
    film.rules[name] = (
        f"@keyframes {name}{{0%{{transform:scaleX(0)}}{end:.2f}%,99.9%{{transform:scaleX(1)}}"
        f"100%{{transform:scaleX(0)}}}}.{name}{{transform-box:fill-box;transform-origin:left;"
        f"animation:{name} {film.seconds:.2f}s infinite linear}}"
    )
    x, y = left + EDGE, bottom - 34
    bar = f'x="{x}" y="{y}" width="{width}" height="4" rx="2"'
    film.add(f'<rect {bar} class="track"/><rect {bar} class="c0 {name}"/>')
    starts: dict[int, float] = {}
    for reveal in run.reveals:
        starts[reveal.round] = min(starts.get(reveal.round, reveal.time), reveal.time)
    ends = [starts[n + 1] for n in sorted(starts)[:-1]] + [run.time]
    for (n, begin), stop in zip(sorted(starts.items()), ends, strict=True):
        shown = film.keyframes(begin * SECONDS_PER_PASS, stop * SECONDS_PER_PASS)
        film.text(x, bottom - 14, f"round {n + 1}", f"count before {shown}")
    total = f"{run.full_passes} full passes"
    if run.updates:
        total += f" + {run.updates} updates"
    film.text(x, bottom - 14, total, f"count {film.keyframes(seconds)}")


def svg(runs: list[Run], cost: float) -> str:
    film = Film(max(run.time for run in runs) * SECONDS_PER_PASS + HOLD)
    lines = max(1 + pieces("".join(r.text for r in run.reveals), len(PROMPT), 0)[2] for run in runs)
    bottom = TOP + lines * LINE + 36
    width, height = 2 * PANEL + 12, bottom + 34
    for n, run in enumerate(runs):
        left = n * (PANEL + 12)
        film.add(
            f'<rect x="{left + 0.5}" y="0.5" width="{PANEL - 1}" height="{bottom - 1:.1f}" rx="8" '
            'class="panel"/>'
        )
        draw(film, run, left, bottom)
    note = f"A colour per round. Clock in full passes; an update took {cost:.2f} of one here."
    film.text(2, height - 10, note, "note")
    style = STYLE.strip() + "\n" + "".join(film.rules.values())
    label = "Text unmasking one token per full pass, beside four tokens per full pass"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img" aria-label="{label}">'
        f"<style>{style}</style>\n" + "\n".join(film.body) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument(
        "--cost", type=float, help="an update in full passes (default: measured, 16 rows)"
    )
    args = parser.parse_args()
    teacher, update = load_teacher("tiny", device="cpu"), Refresh()
    cost = args.cost
    if cost is None:
        cost = update_cost(teacher, update, batch=16, length=LENGTH).ratio
    joint = f"joint, k = {K}, update: Refresh({update.columns})"
    runs = [
        record(teacher, None, "sequential", 1, 0.0, "sequential"),
        record(teacher, update, "joint", K, cost, joint),
    ]
    args.out.write_text(svg(runs, cost))
    print(f"wrote {args.out}, {args.out.stat().st_size / 1024:.0f} KiB, c = {cost:.2f}")


if __name__ == "__main__":
    main()
