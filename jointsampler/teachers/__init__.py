"""Teachers: frozen masked-diffusion LMs behind one protocol."""

from .load import load_teacher
from .protocol import LayerShape, Teacher

__all__ = ["LayerShape", "Teacher", "load_teacher"]
