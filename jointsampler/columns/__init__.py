"""Column policies: which columns of the canvas an update recomputes after a reveal.

One file each, one signature. More columns cost more and leave fewer states stale.
"""

from ..errors import unknown_name
from .attention import Attention
from .block import Block
from .certainty_density import CertaintyDensity
from .delayed import Delayed
from .near_then_scores import NearThenScores
from .protocol import ColumnPolicy, Seen
from .rollout import DensityAndRollout

POLICIES: dict[str, ColumnPolicy] = {
    policy.name: policy
    for policy in (
        Attention(),
        Attention(0.05, "deep", "deep queries"),
        NearThenScores(),
        # Of the literature, for comparison.
        Block(),
        Delayed(),
        CertaintyDensity(),
        DensityAndRollout(),
    )
}


def get_policy(policy: str | ColumnPolicy) -> ColumnPolicy:
    """The policy called ``policy``, or a policy of the caller's own; UserError for an unknown name."""
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise unknown_name("column policy", policy, POLICIES)
    return POLICIES[policy]


__all__ = [
    "POLICIES",
    "Attention",
    "Block",
    "CertaintyDensity",
    "ColumnPolicy",
    "Delayed",
    "DensityAndRollout",
    "NearThenScores",
    "Seen",
    "get_policy",
]
