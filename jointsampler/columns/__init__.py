"""Column policies: which columns of the canvas a refresh recomputes after a reveal.

One file each, one signature. More columns cost more and leave fewer states stale.
"""

from .near_then_scores import NearThenScores
from .protocol import ColumnPolicy

__all__ = ["ColumnPolicy", "NearThenScores"]
