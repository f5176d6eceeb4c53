"""The situation that a tuning is for, and the folder in which finished tunings are kept.

A tuning is found again by everything that its figures depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import ValidationError

from .. import kept
from ..columns import POLICIES
from ..environment import device_name
from ..sampler import JointSampler
from ..teachers.protocol import Teacher
from ..version import VERSION
from .results import Tuning

KIND = "tuning"
FORM = 2  # of the file; another number makes older files unfindable


@dataclass(frozen=True)
class Situation:
    batch: int
    length: int  # of the response
    prompt: int = 0  # tokens of the longest prompt; 0: unconditional
    temperature: float = 1.0
    order: str = "entropy"

    @property
    def positions(self) -> int:
        return self.length + max(1, self.prompt)


def up_to_a_power_of_two(count: int) -> int:
    """The least power of two that is at least ``count``; 0 for 0."""
    return 1 << (count - 1).bit_length() if count else 0


def fingerprint(sampler: JointSampler) -> str:
    """Identifies a joint sampler's weights and settings."""
    digest = hashlib.sha256()
    config = sampler.config
    settings = (config.teacher_fingerprint, config.depth, config.columns, config.policy)
    digest.update(repr(settings).encode())
    for name, tensor in sorted(sampler.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def key_of(teacher: Teacher, samplers: Iterable[str], situation: Situation) -> dict[str, Any]:
    """Everything that the figures depend on; ``samplers``: fingerprints."""
    probe = torch.full((1, 1), teacher.mask_id, device=teacher.device)
    on_gpu = teacher.device.type == "cuda"
    return {
        "form": FORM,
        "version": VERSION,
        "torch": torch.__version__,
        "teacher": teacher.name,
        "fingerprint": teacher.fingerprint,
        "samplers": sorted(samplers),
        "policies": sorted(POLICIES),
        "kind": teacher.device.type,
        "device": device_name(teacher.device),
        "threads": None if on_gpu else torch.get_num_threads(),
        "dtype": str(teacher.embed(probe).dtype).removeprefix("torch."),
        **asdict(situation),
    }


def load(key: dict[str, Any]) -> Tuning | None:
    """The tuning kept under ``key``; None where there is none, or an unreadable one."""
    try:
        return Tuning.model_validate(kept.recall(KIND, key))
    except ValidationError:
        return None


def keep(tuning: Tuning) -> None:
    """Keep ``tuning`` under its key; a folder that cannot be written costs the next call its time."""
    kept.keep(KIND, tuning.key, tuning.model_dump())
