"""Teacher families, one file each, all with the same three names.

``NAME``; ``matches(config)``, whether a ``config.json`` is of this family;
``load(checkpoint, options)``, the teacher. Each file states what is particular
to its checkpoints: tensor names, ids, the shift of the logits, default settings.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ...errors import UserError, unknown_name
from ..checkpoint import Checkpoint
from . import a2d, dream, llada, llada_moe, masked_lm, mdlm, stock

# The first match wins: names of their own before anything judged by its shape.
FAMILIES: dict[str, ModuleType] = {
    module.NAME: module for module in (dream, llada_moe, llada, mdlm, a2d, stock, masked_lm)
}


def family_of(checkpoint: Checkpoint, override: str | None = None) -> ModuleType:
    """The family of a checkpoint, by name where ``override`` gives one.

    Raises UserError: unknown family name, or a checkpoint of none of them.
    """
    if override is not None:
        if override not in FAMILIES:
            raise unknown_name("teacher family", override, FAMILIES)
        return FAMILIES[override]
    for module in FAMILIES.values():
        if module.matches(checkpoint.config):
            return module
    raise UserError(
        f"{checkpoint.folder} is not a masked-diffusion checkpoint of a known family "
        f"({', '.join(FAMILIES)}): {_what_it_is(checkpoint.config)}. A stock decoder made bidirectional "
        "says so in its config.json with a mask_token_id and is_causal: false; teacher.family "
        "overrides the detection."
    )


def _what_it_is(config: dict[str, Any]) -> str:
    architectures = ", ".join(config.get("architectures") or []) or "no architecture named"
    kind = config.get("model_type", "no model_type")
    if any("ForCausalLM" in name for name in config.get("architectures") or []):
        return f"it is a causal language model ({architectures})"
    return f"its config.json names model_type {kind!r} and {architectures}"


__all__ = ["FAMILIES", "family_of"]
