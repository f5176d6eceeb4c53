"""Fast and faithful sampling from masked-diffusion language models."""

from .corpus.trajectories import Trajectories
from .decoding import generate
from .errors import UserError
from .evaluation.block_kl import block_kl
from .sampler.model import JointSampler
from .teachers import Teacher, load_teacher

__version__ = "0.1.0"
__all__ = [
    "JointSampler",
    "Teacher",
    "Trajectories",
    "UserError",
    "block_kl",
    "generate",
    "load_teacher",
]
