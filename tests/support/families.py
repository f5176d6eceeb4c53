"""Every teacher family as a tiny random checkpoint, written and loaded by name."""

from __future__ import annotations

from pathlib import Path

from jointsampler import Teacher, load_teacher
from tests.support import checkpoints, masked_lms

WRITERS = {
    "dream": checkpoints.write_dream,
    "llada": checkpoints.write_llada,
    "llada_moe": checkpoints.write_llada_moe,
    "mdlm": checkpoints.write_mdlm,
    "a2d-qwen3": lambda folder: checkpoints.write_a2d(folder, "qwen3"),
    "a2d-qwen2": lambda folder: checkpoints.write_a2d(folder, "qwen2"),
    **{kind: lambda folder, kind=kind: masked_lms.write(folder, kind) for kind in masked_lms.KINDS},
}
NAMES = ["stock", *WRITERS]


def load_family(root: Path, name: str) -> Teacher:
    """The teacher of family ``name``, written below ``root``."""
    WRITERS[name](root / name)
    beside = root / f"{name}-gpt2"  # MDLM's tokenizer is in a folder of its own
    return load_teacher(
        str(root / name), device="cpu", tokenizer=str(beside) if beside.exists() else None
    )
