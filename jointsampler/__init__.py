"""Fast and faithful sampling from masked-diffusion language models."""

from .decoding import generate
from .errors import UserError
from .measure.block_kl import block_kl
from .sampler import JointSampler
from .teachers import Teacher, load_teacher
from .trajectories import Trajectories

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
