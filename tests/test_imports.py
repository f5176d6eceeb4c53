"""Dependencies point one way: workflows -> jointsampler, and no module imports itself in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKFLOW_ONLY = ("ray", "mlflow", "deepspeed")


def modules(package: str) -> dict[str, Path]:
    """Name -> file of every module of a package in this repository."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


LIBRARY = modules("jointsampler")
ALL = LIBRARY | modules("workflows")


def imported(name: str, path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or in a function."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in ALL else source


def arrows() -> dict[str, set[str]]:
    """Module -> the modules of this repository that it imports."""
    return {name: {t for t in imported(name, path) if t in ALL} for name, path in ALL.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle, or none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in done:
            return []
        for target in sorted(graph[node]):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_the_check_finds_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_in_a_circle():
    assert circle(arrows()) == []


def test_only_a_command_imports_the_rivals():
    inside = "jointsampler.rivals"
    users = {
        name
        for name, targets in arrows().items()
        if not name.startswith(inside) and any(t.startswith(inside) for t in targets)
    }
    assert users == {"jointsampler.cli.rivals"}


def test_the_library_imports_nothing_of_the_workflows():
    wrong = {
        (name, target)
        for name, path in LIBRARY.items()
        for target in imported(name, path)
        if target.split(".")[0] in ("workflows", *WORKFLOW_ONLY)
    }
    assert not wrong


def test_all_of_the_library_loads_without_ray_mlflow_and_deepspeed():
    code = "import importlib, sys\n"
    code += f"for name in {sorted(LIBRARY)}: importlib.import_module(name)\n"
    code += f"print([name for name in {WORKFLOW_ONLY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
