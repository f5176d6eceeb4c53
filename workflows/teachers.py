"""The configured teacher, with its weights or, for a plan, without."""

from __future__ import annotations

import torch

from jointsampler import Teacher, load_teacher
from jointsampler.config import TeacherConfig
from jointsampler.teachers.checkpoint import find_checkpoint


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


def state_bytes(config: TeacherConfig, on_gpu: bool) -> int:
    """Bytes of one number that the teacher computes with."""
    name = ("bfloat16" if on_gpu else "float32") if config.dtype == "auto" else config.dtype
    return getattr(torch, name).itemsize


def weight_bytes(teacher: Teacher, config: TeacherConfig, on_gpu: bool) -> int:
    """Memory that the teacher's weights take, from their shapes."""
    count = sum(p.numel() for p in teacher.model.parameters())
    bits = {"none": 8 * state_bytes(config, on_gpu), "int8": 8, "int4": 4}
    return count * bits[config.quantization] // 8


def is_mapped(config: TeacherConfig) -> bool:
    """Whether a CPU reads the weights from the page cache, which all processes of a node share.

    So it is where config.json names the dtype that the teacher is used in, because then
    nothing is converted; but experts are stacked into new tensors.
    """
    wanted = "float32" if config.dtype == "auto" else config.dtype
    named = find_checkpoint(config.name, config.revision, weights=False).config
    stored = named.get("dtype") or named.get("torch_dtype")
    copied = config.quantization != "none" or bool(named.get("num_experts"))
    return stored == wanted and not copied
