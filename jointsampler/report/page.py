"""results.json to ``index.html``: one self-contained page for screens, phones and paper."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jinja2
import yaml
from jinja2.utils import markupsafe

from ..evaluation.results import Results
from ..evaluation.stats import Interval
from .plots import figures, responsive


def write_report(results: Results, folder: Path) -> Path:
    """Write ``index.html`` and ``summary.svg`` into ``folder``; returns the page's path."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["interval"] = lambda x, digits=3: markupsafe.Markup(_interval(x, digits))
    template = environment.from_string(
        resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    )
    plots = figures(results)
    page = template.render(
        r=results,
        plots={name: markupsafe.Markup(responsive(svg)) for name, svg in plots.items()},
        config=yaml.safe_dump(results.config, sort_keys=False),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text(page, encoding="utf-8")
    if "summary" in plots:
        (folder / "summary.svg").write_text(plots["summary"], encoding="utf-8")
    return folder / "index.html"


def _interval(x: Interval | None, digits: int = 3) -> str:
    if x is None:
        return "–"
    if not x.n:  # exact by construction
        return f"{x.value:g}"
    if x.low is None or x.high is None:
        return f"{x.value:.{digits}f}"
    return f"{x.value:.{digits}f} <small>[{x.low:.{digits}f}, {x.high:.{digits}f}]</small>"
