"""The Python standard library's own source as a text corpus that every machine has.

Files are split by name into training and held-out ones, so that held-out
numbers are measured on unseen text. The corpus differs a little between Python
versions; the model card records its :func:`corpus_fingerprint`.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from jointsampler.errors import UserError
from jointsampler.tasks import TAUGHT, examples

from ..tokenizer import train_tokenizer

# Data tables, vendored trees and tests, which are no ordinary code.
EXCLUDED_FOLDERS = {
    *("test", "tests", "idle_test", "encodings", "lib2to3", "pydoc_data", "idlelib", "turtledemo"),
    *("ensurepip", "tkinter", "distutils", "site-packages", "dist-packages", "__pycache__"),
}
HELD_OUT = {
    *("argparse.py", "bisect.py", "calendar.py", "configparser.py", "csv.py", "difflib.py"),
    *("fractions.py", "heapq.py", "queue.py", "sched.py", "shlex.py", "statistics.py"),
    *("tempfile.py", "textwrap.py", "zipfile.py"),
}


def stdlib_files() -> list[Path]:
    """Every ``.py`` file of the running interpreter's library, without the excluded folders, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        path
        for path in sorted(root.rglob("*.py"))
        if not EXCLUDED_FOLDERS.intersection(path.relative_to(root).parts[:-1])
        and not any(part.startswith("config-") for part in path.relative_to(root).parts)
    ]
    if not files:
        raise UserError(
            f"No Python source under {root}: this interpreter ships without its library's source, "
            "so the embedded teacher cannot be trained with it; use one that has it."
        )
    return files


def read_source(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")


def split_files() -> tuple[list[Path], list[Path]]:
    """(training files, held-out files), split by the fixed names in ``HELD_OUT``."""
    files = stdlib_files()
    return (
        [path for path in files if path.name not in HELD_OUT],
        [path for path in files if path.name in HELD_OUT],
    )


def corpus_fingerprint(files: list[Path]) -> str:
    """sha256 over (name, sha256 of content) of each file."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


class Code:
    """Files of the standard library, and the tokenizer trained on them and on the prompted tasks."""

    name = "code"

    def training(self) -> list[str]:
        return [read_source(path) for path in split_files()[0]]

    def held_out(self) -> list[str]:
        return [read_source(path) for path in split_files()[1]]

    def tokenizer(self, vocab_size: int, texts: list[str]) -> PreTrainedTokenizerFast:
        task_lines = [
            f"{ex.prompt}{ex.answer}" for t in TAUGHT.values() for ex in examples(t, 0, 2000)
        ]
        return train_tokenizer([*texts, *task_lines], vocab_size)

    def card(self) -> str:
        return f"""\
- **Data**: the source of the Python {platform.python_version()} standard library (PSF licence; tests excluded).
  sha256 over training file names and contents: `{corpus_fingerprint(split_files()[0])}`.
- **Held out** (files never trained on): {", ".join(sorted(HELD_OUT))}."""
