"""The configured teacher, with its weights or, for a plan, without."""

from __future__ import annotations

from jointsampler import Teacher, load_teacher
from jointsampler.config.schema import TeacherConfig


def load(config: TeacherConfig, device: str | None = None) -> Teacher:
    """On ``device``, or where the configuration says."""
    return load_teacher(
        config.name,
        device or config.device,
        config.dtype,
        family=config.family,
        revision=config.revision,
        tokenizer=config.tokenizer,
        attention=config.attention,
        quantization=config.quantization,
    )


def describe(config: TeacherConfig) -> Teacher:
    """All but the weights (ids, tokenizer, shapes, fingerprint): cheap at any size."""
    return load(config, "meta")
