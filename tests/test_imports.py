"""What the library may import: no cluster frameworks, and no cycle among its own files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import jointsampler

ROOT = Path(jointsampler.__file__).parent


def module_name(path: Path) -> str:
    parts = ("jointsampler", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(name: str) -> set[str]:
    """Files of the library that ``name`` imports when it is imported itself."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:  # not those inside functions
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}" if base else above
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in FILES else base)
    return {other for other in found if other in FILES and other != name}


def test_the_library_imports_no_cluster_framework():
    """All of its files, in a fresh process."""
    code = (
        f"import importlib, sys\nfor name in {list(FILES)!r}:\n    importlib.import_module(name)\n"
        "found = {'ray', 'mlflow', 'deepspeed', 'workflows'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent, timeout=300)


def test_no_file_imports_itself_through_others():
    graph = {name: imports_of(name) for name in FILES}
    assert sum(map(len, graph.values())) > 100
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())
