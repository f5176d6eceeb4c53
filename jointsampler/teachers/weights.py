"""Safetensors into a stock transformers class, straight onto its device, nothing unsaid.

Tensors go one by one from the memory-mapped file to their place, so a load
needs the model's own size and a little more. Missing, unexpected or misshapen
tensors are errors that name them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..errors import UserError
from .checkpoint import Checkpoint
from .options import LoadOptions, Quantization


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its bars and load reports: what matters is raised as an error here."""
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
    key_mapping: dict[str, str] | None = None,
    ignored: str | None = None,
) -> PreTrainedModel:
    """The model with the checkpoint's weights; ``ignored``: tensors that may lie there unused.

    Raises UserError: unreadable or truncated files, tensors that are missing,
    left over, or of another shape than the config says.
    """
    folder = checkpoint.folder
    config._attn_implementation = options.attention
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder} has no safetensors weights: convert the checkpoint (other formats can carry code)."
        )
    if options.device.type == "meta":  # shapes alone, for plans
        auto = hasattr(model_class, "from_config")
        with torch.device("meta"):
            return model_class.from_config(config) if auto else model_class._from_config(config)
    try:
        with quiet():
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                dtype=options.dtype,
                attn_implementation=options.attention,
                device_map={"": options.device},
                key_mapping=key_mapping,
                quantization_config=quantization_config(options.quantization),
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # named below, with all the others
            )
    except UserError:
        raise
    except Exception as error:  # safetensors, the file system and transformers raise a dozen types
        reason = str(error).strip().split("\n", 1)[0]
        raise UserError(f"Cannot load the weights in {folder}: {reason}") from None
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
        raise UserError(f"The weights in {folder} do not fit its config.json: {'; '.join(said)}.")
    return model
