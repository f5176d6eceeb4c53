"""Fast and faithful sampling from masked-diffusion language models."""

from .corpus.trajectories import Trajectories
from .errors import UserError
from .evaluation.kl import block_kl
from .sampler import JointSampler
from .teachers import Teacher, load_teacher
from .tuning import generate, tune
from .updates import Refresh
from .version import VERSION as __version__

__all__ = [
    "JointSampler",
    "Refresh",
    "Teacher",
    "Trajectories",
    "UserError",
    "__version__",
    "block_kl",
    "generate",
    "load_teacher",
    "tune",
]
