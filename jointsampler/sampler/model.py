"""The joint sampler: one small bidirectional transformer layer on a frozen teacher.

Given the embedding of the canvas after a reveal and the previous hidden states,
the layer predicts the next hidden states, which the *teacher's own* frozen LM
head reads (arXiv 2509.22738, section 3). It may also read inner layers of the
teacher, as the round's full pass left them, and the embeddings beside each
position. The output projection starts at zero, so an untrained sampler gives the
teacher's marginals exactly. Training is left to ``distill/``, use to ``updates/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import UserError
from ..teachers.protocol import Teacher, position_ids
from ..teachers.weights import quiet
from .estimator import KLEstimator
from .layer import Layer, Norm, at_columns, beside, rotary_angles

# Shipped samplers, each for the embedded teacher of its name.
EMBEDDED = {"tiny": Path(__file__).parents[1] / "samplers" / "tiny"}


def sampler_folder(path: str | Path) -> Path:
    """The folder of a shipped sampler's name, or the path itself."""
    return EMBEDDED.get(str(path), Path(path))


class JointSamplerConfig(PretrainedConfig):
    model_type = "jointsampler"

    def __init__(
        self,
        teacher_hidden_size: int = 192,
        width: int = 192,
        heads: int = 6,
        head_dim: int = 32,
        intermediate_size: int = 512,
        rope_theta: float = 10000.0,
        norm_eps: float = 1e-6,
        teacher_name: str = "",
        teacher_fingerprint: str = "",
        k_max: int = 8,
        read_layers: Sequence[int] = (),
        neighbors: int = 0,
        **kwargs,
    ):
        self.teacher_hidden_size = teacher_hidden_size
        self.width = width
        self.heads = heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.rope_theta = rope_theta
        self.norm_eps = norm_eps
        self.teacher_name = teacher_name
        self.teacher_fingerprint = teacher_fingerprint
        self.k_max = k_max  # reveals of the longest round that it was trained for
        self.read_layers = list(read_layers)  # of the teacher, besides its final hidden states
        self.neighbors = neighbors  # positions on each side whose embeddings each position reads
        super().__init__(**kwargs)


def spaced_layers(teacher: Teacher, count: int) -> list[int]:
    """``count`` layers of the teacher below its last, evenly spaced.

    Raises UserError where it has too few.
    """
    if count >= teacher.layers:
        raise UserError(
            f"Teacher {teacher.name!r} has {teacher.layers} layers: a sampler can read at most "
            f"{teacher.layers - 1} besides the last, not {count}."
        )
    return [round((i + 1) * teacher.layers / (count + 1)) for i in range(count)]


class JointSampler(PreTrainedModel):
    """h_j = h_{j-1} + project(layer(fuse(norm(embedding), norm(h_{j-1})))); weights shared over j."""

    config_class = JointSamplerConfig
    base_model_prefix = ""
    main_input_name = "embedding"

    def __init__(self, config: JointSamplerConfig):
        super().__init__(config)
        hidden, eps = config.teacher_hidden_size, config.norm_eps
        self.embedding_norm = Norm(hidden, eps=eps)
        self.hidden_norm = Norm(hidden, eps=eps)
        self.layer_norms = nn.ModuleList(Norm(hidden, eps=eps) for _ in config.read_layers)
        self.fuse = nn.Linear((2 + len(config.read_layers)) * hidden, config.width, bias=False)
        if config.neighbors:
            self.beside = nn.Linear(2 * config.neighbors * hidden, config.width, bias=False)
        self.layer = Layer(
            config.width, config.heads, config.head_dim, config.intermediate_size, eps
        )
        self.final_norm = Norm(config.width, eps=eps)
        self.project = nn.Linear(config.width, hidden, bias=False)
        self.estimator = KLEstimator(hidden, eps)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        if module in (getattr(self, "project", None), getattr(self, "beside", None)):
            nn.init.zeros_(module.weight)

    def forward(
        self,
        embedding: Tensor,
        states: Tensor,
        attention_mask: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """One sampler pass.

        embedding [B, S, H] of the canvas after the last reveal, states
        [B, S, (1 + F) H] (those of :meth:`reading`'s teacher, or this function's
        own), attention_mask [B, S] bool, False on left padding -> states
        [B, S, (1 + F) H]: new hidden states, and the teacher's F inner layers unchanged.

        With ``columns`` [B, C] int64 only the states there come back,
        [B, C, (1 + F) H]. That is enough for the last pass of a training step, and
        about half of the work.
        """
        config = self.config
        if attention_mask is None:
            positions = torch.arange(embedding.shape[1], device=embedding.device)[None]
            key_mask = None
        else:
            positions = position_ids(attention_mask)
            key_mask = attention_mask[:, None, None, :]
        cos, sin = rotary_angles(positions, config.head_dim, config.rope_theta)
        x = self._read(embedding, states, attention_mask)
        x = self.layer(x, cos[:, None], sin[:, None], key_mask, columns)  # one angle for all heads
        before = states if columns is None else at_columns(states, columns)
        size = config.teacher_hidden_size
        hidden = before[..., :size] + self.project(self.final_norm(x))
        return torch.cat([hidden, before[..., size:]], dim=-1) if config.read_layers else hidden

    def _read(self, embedding: Tensor, states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The layer's input, [B, S, W]."""
        tokens = self.embedding_norm(embedding)
        previous, *inner = states.split(self.config.teacher_hidden_size, dim=-1)
        inputs = [tokens, self.hidden_norm(previous)]
        inputs += [norm(layer) for norm, layer in zip(self.layer_norms, inner, strict=True)]
        x = self.fuse(torch.cat(inputs, dim=-1))
        if self.config.neighbors:
            x = x + self.beside(beside(tokens, self.config.neighbors, attention_mask))
        return x

    @classmethod
    def for_teacher(
        cls,
        teacher: Teacher,
        width: int | None = None,
        *,
        features: int = 0,
        neighbors: int = 0,
        k_max: int = 8,
        seed: int = 0,
    ) -> JointSampler:
        """A fresh, untrained sampler for ``teacher``; ``width`` defaults to its hidden size.

        ``features``: how many inner layers of the teacher it reads, evenly spaced.
        ``neighbors``: how many positions on each side it reads the embeddings of.
        ``k_max``: reveals of the longest round that it will be trained for.

        Raises UserError where the width does not fit the teacher's heads, or the
        teacher has too few layers.
        """
        width = width or teacher.hidden_size
        shape = teacher.layer_shape(width)
        config = JointSamplerConfig(
            teacher_hidden_size=teacher.hidden_size,
            width=width,
            heads=shape.heads,
            head_dim=shape.head_dim,
            intermediate_size=shape.intermediate_size,
            rope_theta=shape.rope_theta,
            norm_eps=shape.norm_eps,
            teacher_name=teacher.name,
            teacher_fingerprint=teacher.fingerprint,
            k_max=k_max,
            read_layers=spaced_layers(teacher, features),
            neighbors=neighbors,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config).to(teacher.device)

    @classmethod
    def from_pretrained(cls, path, *args, **kwargs) -> JointSampler:
        """As in transformers, for a local folder or a shipped sampler's name; in evaluation mode.

        Raises UserError if the folder holds no sampler.
        """
        folder = sampler_folder(path)
        if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
            raise UserError(
                f"No sampler in {folder}: a sampler folder holds config.json and model.safetensors, "
                "as JointSampler.save_pretrained writes them."
            )
        with quiet():
            sampler, report = super().from_pretrained(
                folder, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        misshapen = [key[0] for key in report["mismatched_keys"]]
        wrong = sorted([*report["missing_keys"], *report["unexpected_keys"], *misshapen])
        if wrong:
            raise UserError(
                f"The sampler in {folder} does not fit this version ({', '.join(wrong[:3])}): train it again."
            )
        return sampler.eval()

    def reading(self, teacher: Teacher) -> Teacher:
        """``teacher`` with the states that this sampler reads; UserError unless made for it."""
        self.check_teacher(teacher)
        layers = self.config.read_layers
        return teacher.reading(layers) if layers else teacher

    def check_teacher(self, teacher: Teacher) -> None:
        """UserError unless this sampler was made for ``teacher`` and is on its device."""
        if self.device != teacher.device:
            raise UserError(
                f"The sampler is on {self.device}, teacher {teacher.name!r} on {teacher.device}: move it "
                "with sampler.to(teacher.device)."
            )
        self.check_fingerprint(teacher)

    def check_fingerprint(self, teacher: Teacher) -> None:
        """UserError unless this sampler was made for ``teacher``, on whatever device either is."""
        if self.config.teacher_fingerprint != teacher.fingerprint:
            raise UserError(
                f"This sampler was distilled from teacher {self.config.teacher_name!r} "
                f"({self.config.teacher_fingerprint}), not from {teacher.name!r} "
                f"({teacher.fingerprint}): load its own teacher or train a sampler for this one."
            )
