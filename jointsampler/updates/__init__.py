"""Updates: how states follow a reveal without a full pass. One protocol, one file each."""

from __future__ import annotations

from ..columns import ColumnPolicy
from ..errors import UserError
from ..sampler import JointSampler
from .hybrid import Hybrid
from .none import NoUpdate
from .protocol import Opening, Reveal, Round, Update, foresee, full_pass
from .refresh import Refresh
from .trained import Trained


def as_update(update: Update | JointSampler | None) -> Update:
    """The update that a caller's argument means; UserError where it means none."""
    if update is None:
        return NoUpdate()
    if isinstance(update, JointSampler):
        return joint_update(update)
    if isinstance(update, Update):
        return update
    raise UserError(
        f"An update is a JointSampler, a Refresh or None, not {type(update).__name__}: see "
        "jointsampler/updates/ for the protocol of your own."
    )


def joint_update(
    sampler: JointSampler, columns: int | None = None, policy: str | ColumnPolicy | None = None
) -> Update:
    """The update of ``sampler``; ``columns`` and ``policy`` default to the sampler's own.

    The paper's form recomputes all columns, whatever these say.
    """
    config = sampler.config
    if not config.depth:
        return Trained(sampler)
    return Hybrid(
        sampler,
        config.columns if columns is None else columns,
        config.policy if policy is None else policy,
    )


__all__ = [
    "Hybrid",
    "NoUpdate",
    "Opening",
    "Refresh",
    "Reveal",
    "Round",
    "Trained",
    "Update",
    "as_update",
    "foresee",
    "full_pass",
    "joint_update",
]
