"""Load a teacher by name: find the checkpoint, detect its family, load it, check it.

The files in ``families/`` say how a family's weights become a network.
"""

from __future__ import annotations

import torch

from ..errors import UserError
from .checkpoint import find_checkpoint
from .families import family_of
from .options import LoadOptions, Quantization
from .protocol import Teacher


def _probe(teacher: Teacher) -> torch.Tensor:
    """[2, 8] int64: masks, and a last token that differs between the two rows."""
    ids = torch.full((2, 8), teacher.mask_id, device=teacher.device)
    allowed = torch.ones(teacher.vocab_size, dtype=torch.bool)
    allowed[teacher.forbidden_ids] = False
    ids[:, -1] = allowed.nonzero()[:2, 0].to(teacher.device)
    return ids


def check_teacher(teacher: Teacher) -> None:
    """Check with one tiny pass: shapes as promised, finite numbers, attention in both directions.

    Some classes ignore ``is_causal: false`` silently; the last check finds them. Raises UserError.
    """
    ids = _probe(teacher)
    with torch.inference_mode():
        hidden = teacher.hidden(ids)
        logits, embedded = teacher.logits(hidden), teacher.embed(ids)
    promised = {
        "hidden states": (hidden, teacher.hidden_size),
        "logits": (logits, teacher.vocab_size),
        "embeddings": (embedded, teacher.hidden_size),
    }
    for what, (tensor, width) in promised.items():
        if tensor.shape != (*ids.shape, width):
            raise UserError(
                f"Teacher {teacher.name!r} gives {what} of shape {tuple(tensor.shape)} where "
                f"{(*ids.shape, width)} was promised: its config.json does not fit its weights."
            )
    if not torch.isfinite(hidden).all():
        raise UserError(
            f"Teacher {teacher.name!r} gives infinite or undefined hidden states: its weights are "
            "broken, or its dtype is too narrow (set teacher.dtype to bfloat16 or float32)."
        )
    # Compare the second position: a shifted family's first state is not a prediction.
    if torch.equal(hidden[0, 1].float(), hidden[1, 1].float()):
        raise UserError(
            f"Teacher {teacher.name!r} attends causally (a change of the last token does not reach "
            "the first ones): it is not a masked-diffusion model, or its class ignores is_causal."
        )


def placement(
    device: str = "auto", dtype: torch.dtype | str | None = None
) -> tuple[torch.device, torch.dtype]:
    """The device and dtype that two arguments mean.

    ``auto`` is a GPU where there is one. ``dtype`` (or its name; None or "auto")
    defaults to bfloat16 on a GPU and float32 elsewhere. Raises UserError: no such
    device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        placed = torch.device(device)
    except RuntimeError:
        raise UserError(f"No device {device!r}: choose auto, cpu, cuda or cuda:N.") from None
    if placed.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"Device {device!r} was asked for, and torch sees no CUDA device here.")
    if dtype is None or dtype == "auto":
        dtype = torch.bfloat16 if placed.type == "cuda" else torch.float32
    return placed, getattr(torch, dtype) if isinstance(dtype, str) else dtype


def load_teacher(
    name: str,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    *,
    family: str | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    quantization: Quantization = "none",
) -> Teacher:
    """The frozen teacher of that name, folder or hub id, ready on ``device``.

    On the device ``meta`` no weights are fetched or read, and a hub id's vocabulary
    on the first use of ``teacher.tokenizer``. The teacher then has ids, shapes and
    fingerprint, which is all that a plan needs.
    ``dtype`` (or its name) defaults to float32 on a CPU and bfloat16 on a GPU;
    ``family`` overrides detection from config.json; ``revision`` is the hub's;
    ``tokenizer`` names a tokenizer where the checkpoint has none.
    Raises UserError: no such teacher, not a masked-diffusion checkpoint, missing
    tokenizer or mask id, weights that are unreadable, incomplete or do not fit.
    """
    checkpoint = find_checkpoint(name, revision, weights=device != "meta")
    placed, dtype = placement(device, dtype)
    options = LoadOptions(placed, dtype, quantization, tokenizer)
    teacher = family_of(checkpoint, family).load(checkpoint, options)
    if placed.type != "meta":
        check_teacher(teacher)
    return teacher
