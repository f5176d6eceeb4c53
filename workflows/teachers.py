"""The configured teacher, with its weights or, for a plan, without."""

from __future__ import annotations

from jointsampler import Teacher, load_teacher
from jointsampler.config import TeacherConfig


def load(config: TeacherConfig, device: str | None = None) -> Teacher:
    """The teacher with its weights, on ``device`` or on the configured device."""
    return load_teacher(
        config.name,
        device or config.device,
        config.dtype,
        family=config.family,
        revision=config.revision,
        tokenizer=config.tokenizer,
        quantization=config.quantization,
    )


def describe(config: TeacherConfig) -> Teacher:
    """The teacher without weights: ids, tokenizer, shapes and fingerprint. Fetches no weights."""
    return load(config, "meta")
