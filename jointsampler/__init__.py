"""Fast and faithful sampling from masked-diffusion language models."""

from .corpus.trajectories import Trajectories
from .decoding import generate
from .errors import UserError
from .evaluation.kl import block_kl
from .sampler import JointSampler
from .teachers import Teacher, load_teacher
from .updates import Refresh

__version__ = "0.1.0"
__all__ = [
    "JointSampler",
    "Refresh",
    "Teacher",
    "Trajectories",
    "UserError",
    "block_kl",
    "generate",
    "load_teacher",
]
