"""Load safetensors weights into a stock transformers class.

Tensors go one by one from the memory-mapped file to their device, so a load
needs little more memory than the model itself. Missing, unexpected or misshapen
tensors are errors that name them. Attention goes through ``columns.py``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import UserError
from .checkpoint import Checkpoint
from .columns import ATTENTION
from .options import LoadOptions, Quantization


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports; this library raises errors itself."""
    bars, level = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def quantization_config(kind: Quantization):
    """torchao's weight-only quantization; UserError where torchao is not installed."""
    if kind == "none":
        return None
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    except ImportError:
        raise UserError(
            f"teacher.quantization={kind} needs torchao: pip install 'jointsampler[quantized]'."
        ) from None
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8" else Int4WeightOnlyConfig())


def load_stock(
    model_class: type[PreTrainedModel],
    checkpoint: Checkpoint,
    options: LoadOptions,
    config: PretrainedConfig,
    key_mapping: Mapping[str, str] | None = None,
    ignored: str | None = None,
) -> PreTrainedModel:
    """The model with the checkpoint's weights; on the device ``meta`` without weights, for plans.

    ``key_mapping``: the checkpoint's tensor names (regular expressions) -> the
    class's. ``ignored``: a regular expression for tensors that the class does not use.
    Raises UserError: unreadable or truncated files, tensors that are missing,
    left over, or of another shape than the config says.
    """
    folder = checkpoint.folder
    if not checkpoint.has_weights:
        raise UserError(
            f"{folder} has no safetensors weights: convert the checkpoint (other formats can carry code)."
        )
    config._attn_implementation = _attention_of(model_class, config)
    if options.device.type == "meta":
        auto = hasattr(model_class, "from_config")
        with torch.device("meta"):
            return model_class.from_config(config) if auto else model_class._from_config(config)
    try:
        with quiet():
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                dtype=options.dtype,
                attn_implementation=config._attn_implementation,
                device_map={"": options.device},
                key_mapping=dict(key_mapping) if key_mapping else None,
                quantization_config=quantization_config(options.quantization),
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # _check_report names them, with all the others
            )
    except UserError:
        raise
    except Exception as error:  # safetensors, the file system and transformers raise a dozen types
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(f"Cannot load the weights in {folder}: {reason}") from None
    _check_report(report, checkpoint, ignored)
    return model


def _attention_of(model_class: type, config: PretrainedConfig) -> str:
    """transformers' name of the attention to use: ours, or eager for classes that have no other.

    Such a class computes attention itself, so ``columns.check_rerun`` refuses it.
    """
    mapping = getattr(model_class, "_model_mapping", None)  # of the Auto classes
    actual = model_class if mapping is None else mapping[type(config)]
    return ATTENTION if getattr(actual, "_supports_sdpa", False) else "eager"


def _check_report(report: dict[str, Any], checkpoint: Checkpoint, ignored: str | None) -> None:
    """UserError naming the tensors that transformers' loading report complains about."""
    unexpected = [
        key for key in report["unexpected_keys"] if not (ignored and re.search(ignored, key))
    ]
    complaints = {
        "missing": sorted(report["missing_keys"]),
        "not known to the model": sorted(unexpected),
        "of another shape": sorted(str(entry[0]) for entry in report["mismatched_keys"]),
    }
    said = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in complaints.items()
        if keys
    ]
    if said:
        raise UserError(
            f"The weights in {checkpoint.folder} do not fit its config.json: {'; '.join(said)}."
        )
