"""From a name or a folder to a teacher: reading, checking, fingerprinting.

What a family does with its weights is in the family's file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..errors import UserError
from .protocol import Teacher
from .stock import StockTeacher

EMBEDDED = {"tiny": "tiny"}  # name -> folder beside this file
_SAMPLE_BYTES = 1 << 16


def teacher_folder(name_or_path: str) -> Path:
    """The folder of an embedded teacher or of a local checkpoint; UserError otherwise."""
    if name_or_path in EMBEDDED:
        folder = Path(str(resources.files(__package__))) / EMBEDDED[name_or_path]
    else:
        folder = Path(name_or_path).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"No teacher {name_or_path!r}: it is neither an embedded one ({', '.join(EMBEDDED)}) "
            "nor a folder with a config.json."
        )
    return folder


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers without its loading bars, which would drown a stage's own progress line."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def fingerprint(folder: Path) -> str:
    """A short name of config and weights, cheap at any size.

    sha256 over config.json and, for each weight file, its size and its first
    and last 64 KiB (the first hold the safetensors header: every name and shape).
    """
    digest = hashlib.sha256(json.dumps(json.loads((folder / "config.json").read_text())).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_SAMPLE_BYTES)
            file.seek(max(0, size - _SAMPLE_BYTES))
            tail = file.read(_SAMPLE_BYTES)
        digest.update(f"{path.name} {size}".encode() + head + tail)
    return digest.hexdigest()[:16]


def check_bidirectional(teacher: Teacher) -> None:
    """Two tiny passes: the last token must move the first position's hidden state.

    Silent causal attention is the classic failure here: a flag that a class
    ignores costs nothing but quality.
    """
    ids = torch.full((2, 8), teacher.mask_id, device=teacher.device)
    allowed = torch.ones(teacher.vocab_size, dtype=torch.bool)
    allowed[teacher.forbidden_ids] = False
    ids[:, -1] = allowed.nonzero()[:2, 0].to(teacher.device)
    with torch.inference_mode():
        first = teacher.hidden(ids)[:, 0].float()
    if torch.equal(first[0], first[1]):
        raise UserError(
            f"Teacher {teacher.name!r} attends causally (a change of the last token does not reach "
            "the first position): it is not a masked-diffusion model, or its class ignores is_causal."
        )


def load_teacher(
    name_or_path: str, device: str = "auto", dtype: torch.dtype | None = None
) -> Teacher:
    """The frozen teacher of that name or folder, ready on ``device``.

    ``dtype`` defaults to float32 on a CPU and bfloat16 on a GPU.
    Raises UserError: no such folder, not a masked-diffusion checkpoint, missing
    tokenizer, unreadable or incomplete weights.
    """
    folder = teacher_folder(name_or_path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    config = AutoConfig.from_pretrained(folder)
    if getattr(config, "mask_token_id", None) is None or getattr(config, "is_causal", True):
        raise UserError(
            f"{folder} is not a masked-diffusion checkpoint: its config.json must give a "
            "mask_token_id and is_causal: false."
        )
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json: a teacher needs its tokenizer beside it.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    try:
        with no_progress_bars():
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"Cannot load the weights in {folder}: {error}") from None
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise UserError(f"The weights in {folder} do not fit its config: {', '.join(wrong[:5])}.")
    teacher = StockTeacher(model.to(device), tokenizer, name_or_path, fingerprint(folder))
    check_bidirectional(teacher)
    return teacher
