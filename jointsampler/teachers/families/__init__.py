"""Teacher families: one file each, with the same three names.

``NAME``; ``matches(config)``, whether a ``config.json`` is of this family;
``load(checkpoint, options)``, which returns the teacher. Each file holds the
facts of its checkpoints: tensor names, ids, the shift of the outputs, default
settings. A new family is a new file and its place in ``FAMILIES``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ...errors import UserError, unknown_name
from ..checkpoint import Checkpoint
from . import a2d, dream, llada, llada_moe, masked_lm, mdlm, stock

# The first match wins: families with a model_type of their own come before the general ones.
FAMILIES: dict[str, ModuleType] = {
    module.NAME: module for module in (dream, llada_moe, llada, mdlm, a2d, stock, masked_lm)
}


def family_of(checkpoint: Checkpoint, override: str | None = None) -> ModuleType:
    """The family named ``override``, or the first one that matches the checkpoint.

    Raises UserError: unknown family name, or no family matches.
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
        f"({', '.join(FAMILIES)}): {_what_it_is(checkpoint.config)}. If it is a stock decoder made "
        "bidirectional, give its config.json a mask_token_id and is_causal: false; otherwise name "
        "its family with teacher.family."
    )


def _what_it_is(config: dict[str, Any]) -> str:
    architectures = ", ".join(config.get("architectures") or []) or "no architecture named"
    kind = config.get("model_type", "no model_type")
    if any("ForCausalLM" in name for name in config.get("architectures") or []):
        return f"it is a causal language model ({architectures})"
    return f"its config.json names model_type {kind!r} and {architectures}"


__all__ = ["FAMILIES", "family_of"]
