"""Teachers of a published shape with random weights: the right speed, the wrong text.

A shape is the numbers of a decoder's ``config.json``. Nothing is read from a disk or
fetched. Special ids are those of the embedded teacher, whatever the shape.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ..errors import UserError, unknown_name
from ..teachers.columns import ATTENTION
from ..teachers.decoder import DecoderFamily, DecoderTeacher
from ..teachers.load import check_teacher
from ..teachers.protocol import Teacher
from ..teachers.tokenization import SpecialIds

_IDS = SpecialIds(mask=3, bos=0, eos=1, pad=2, ends=(1,))


@dataclass(frozen=True)
class Shape:
    """A decoder with gated MLPs: Llama's, and with ``bias`` Qwen2's."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    shift: int = 0  # output i predicts token i + shift
    bias: bool = False  # of the query, key and value projections
    tied: bool = False  # the LM head is the embedding
    max_length: int = 4096

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def layer_matrix(self) -> int:
        """Weights of one layer's matrices, without biases and norms."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.bias else 0
        return self.layer_matrix + 2 * self.hidden + bias

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and as many of the LM head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights; a tied head counts once."""
        ends = self.embedding * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + self.hidden + ends

    @classmethod
    def of(cls, teacher: Teacher) -> Shape:
        """The shape of a loaded Llama or Qwen2; UserError for another network."""
        config = getattr(getattr(teacher, "model", None), "config", None)
        if not isinstance(config, LlamaConfig | Qwen2Config):
            raise UserError(
                f"The cost model covers Llama and Qwen2 networks: teacher {teacher.name!r} (family "
                f"{teacher.family!r}) can be measured, not predicted."
            )
        found = cls(
            teacher.name,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.intermediate_size,
            config.vocab_size,
            shift=teacher.shift,
            bias=isinstance(config, Qwen2Config),
            tied=bool(config.tie_word_embeddings),
            max_length=teacher.max_length,
        )
        if (getattr(config, "head_dim", None) or found.head_dim) != found.head_dim:
            raise UserError(
                f"Teacher {teacher.name!r} has heads of {config.head_dim}, not hidden size / heads: it can "
                "be measured, not predicted."
            )
        return found


_ALL = [
    Shape("tiny", 10, 192, 6, 6, 512, 2048, tied=True, max_length=256),
    # Dream-org/Dream-v0-Base-7B, config.json: the numbers of Qwen2.5-7B (arXiv 2508.15487).
    Shape("dream-7b", 28, 3584, 28, 4, 18944, 152_064, shift=1, bias=True),
    # GSAI-ML/LLaDA-8B-Base, config.json (arXiv 2502.09992).
    Shape("llada-8b", 32, 4096, 32, 32, 12_288, 126_464),
]
SHAPES: dict[str, Shape] = {shape.name: shape for shape in _ALL}


def get_shape(name: str) -> Shape:
    """The shape called ``name``; UserError with the nearest name otherwise."""
    if name not in SHAPES:
        raise unknown_name("shape", name, SHAPES)
    return SHAPES[name]


@dataclass(frozen=True)
class _Random:
    """The origin of a random teacher's weights, in place of a checkpoint."""

    name: str
    fingerprint: str


def _config(shape: Shape) -> LlamaConfig | Qwen2Config:
    config_class = Qwen2Config if shape.bias else LlamaConfig
    config = config_class(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=shape.tied,
        pad_token_id=_IDS.pad,
        bos_token_id=_IDS.bos,
        eos_token_id=_IDS.eos,
    )
    config.is_causal = False  # transformers' mask functions read it
    config._attn_implementation = ATTENTION
    return config


def _check_memory(shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
    """UserError where the weights are larger than the memory that is free now."""
    if device.type == "meta":
        return
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    needed = shape.parameters * dtype.itemsize
    if needed > free:
        raise UserError(
            f"Shape {shape.name!r} has {needed / 2**30:.1f} GiB of weights, and {device} has "
            f"{free / 2**30:.1f} GiB free: choose a smaller shape or dtype, or --predict."
        )


def random_teacher(
    shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> DecoderTeacher:
    """A teacher of ``shape`` with random weights of ``dtype`` on ``device``, without a tokenizer.

    On the device ``meta`` it has shapes and no weights. Raises UserError where its
    weights do not fit the device's free memory.
    """
    _check_memory(shape, device, dtype)
    config, model_class = _config(shape), Qwen2ForCausalLM if shape.bias else LlamaForCausalLM
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), torch.device(device):
        torch.manual_seed(seed)
        model = model_class._from_config(config, dtype=dtype)
    origin = _Random(
        f"{shape.name}, random weights",
        f"random-{seed}-" + "-".join(map(str, asdict(shape).values())),
    )
    family = DecoderFamily("random", model_class, shift=shape.shift)
    teacher = DecoderTeacher(model, origin, None, _IDS, family, {})
    if device.type != "meta":
        check_teacher(teacher)
    return teacher
