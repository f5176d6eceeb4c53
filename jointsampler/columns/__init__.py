"""Column policies: which columns of the canvas an update recomputes after a reveal.

One file each, one signature. More columns cost more and leave fewer states stale.
"""

from ..errors import unknown_name
from .attention import Attention
from .certainty_density import CertaintyDensity
from .near_then_scores import NearThenScores
from .protocol import ColumnPolicy, Seen

POLICIES: dict[str, ColumnPolicy] = {
    policy.name: policy for policy in (Attention(), NearThenScores(), CertaintyDensity())
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
    "CertaintyDensity",
    "ColumnPolicy",
    "NearThenScores",
    "Seen",
    "get_policy",
]
