"""The configured teacher, with its weights or, for a plan, without."""

from __future__ import annotations

import platform

from jointsampler import Teacher, load_teacher
from jointsampler.config import TeacherConfig
from jointsampler.errors import UserError


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


def load_same(config: TeacherConfig, fingerprint: str, device: str | None = None) -> Teacher:
    """The teacher with its weights on a node; UserError unless it is the one that was planned with."""
    teacher = load(config, device)
    if teacher.fingerprint != fingerprint:
        raise UserError(
            f"Teacher {config.name!r} has fingerprint {teacher.fingerprint} on node {platform.node()} and "
            f"{fingerprint} where the run was planned: give all nodes the same checkpoint "
            "(teacher.revision names one), and run 'jointsampler prefetch --all-nodes' again."
        )
    return teacher
