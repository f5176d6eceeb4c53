"""The joint sampler: one small bidirectional transformer layer on a frozen teacher.

The layer corrects a guess of the hidden states after a reveal. The *teacher's own*
frozen LM head reads the result. The output projection starts at zero, so an
untrained sampler returns its guess. ``depth`` decides what it reads:

- 0, the paper's form (arXiv 2509.22738, section 3): the embeddings of the canvas
  and the previous hidden states, recurrently over the round.
- m > 0, a hybrid: the output of the teacher's m-th layer, fresh; its change since the
  full pass; and the *carry*: the last layer's output as the full pass left it, plus
  that change.

``updates/trained.py`` and ``updates/hybrid.py`` put the two to use. Training is left
to ``distill/``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import UserError
from ..teachers.columns import check_rerun
from ..teachers.protocol import Teacher, position_ids
from ..teachers.weights import quiet
from .estimator import KLEstimator
from .layer import Layer, Norm, at_columns, rotary_angles

# Shipped samplers of the embedded teacher: a hybrid, and one of the paper's form.
_SHIPPED = Path(__file__).parents[1] / "samplers"
EMBEDDED = {name: _SHIPPED / name for name in ("tiny", "tiny-paper")}


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
        depth: int = 0,
        columns: int = 8,
        policy: str = "attention",
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
        self.depth = depth  # lower layers of the teacher that run before it; 0: the paper's form
        # Of a hybrid, unless the caller names others: columns of an update, and their policy.
        self.columns, self.policy = columns, policy
        super().__init__(**kwargs)


class JointSampler(PreTrainedModel):
    """states + project(layer(fuse(inputs, states, change of inputs))): see the top of this file."""

    config_class = JointSamplerConfig
    base_model_prefix = ""
    main_input_name = "inputs"

    def __init__(self, config: JointSamplerConfig):
        super().__init__(config)
        hidden, eps = config.teacher_hidden_size, config.norm_eps
        self.embedding_norm = Norm(hidden, eps=eps)
        self.hidden_norm = Norm(hidden, eps=eps)
        self.fuse = nn.Linear((3 if config.depth else 2) * hidden, config.width, bias=False)
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
        if module is getattr(self, "project", None):
            nn.init.zeros_(module.weight)

    def forward(
        self,
        inputs: Tensor,
        states: Tensor,
        attention_mask: Tensor | None = None,
        columns: Tensor | None = None,
        before: Tensor | None = None,
    ) -> Tensor:
        """One sampler pass over whole rows: new hidden states [B, S, H].

        inputs [B, S, H]: embeddings of the canvas, or outputs of layer ``depth``.
        states [B, S, H]: the previous hidden states, or the carry behind the final
        norm. attention_mask: [B, S] bool, False on left padding. before [B, S, H]: of
        a hybrid, the outputs of layer ``depth`` when the round opened.

        With ``columns`` [B, C] int64 only the states there come back, [B, C, H].
        That is enough for the last pass of a training step, and about half of the work.
        """
        if attention_mask is None:
            positions = torch.arange(inputs.shape[1], device=inputs.device)[None]
            key_mask = None
        else:
            positions = position_ids(attention_mask)
            key_mask = attention_mask[:, None, None, :]
        x = self.layer(
            self.fused(inputs, states, before), *self.angles(positions), key_mask, columns
        )
        return self.corrected(states if columns is None else at_columns(states, columns), x)

    def fused(self, inputs: Tensor, states: Tensor, before: Tensor | None) -> Tensor:
        """The layer's input, [B, S, W]; arguments as in :meth:`forward`."""
        fresh = self.embedding_norm(inputs)
        parts = [fresh, self.hidden_norm(states)]
        if before is not None:  # what has changed in the round, and where nothing has, zero
            parts.append(fresh - self.embedding_norm(before))
        return self.fuse(torch.cat(parts, dim=-1))

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the rotary embedding at ``positions`` [B or 1, S], the same for all heads."""
        cos, sin = rotary_angles(positions, self.config.head_dim, self.config.rope_theta)
        return cos[:, None], sin[:, None]

    def corrected(self, states: Tensor, x: Tensor) -> Tensor:
        """New hidden states [B, C, H] from the guess ``states`` and the layer's output x [B, C, W]."""
        return states + self.project(self.final_norm(x))

    @classmethod
    def for_teacher(
        cls,
        teacher: Teacher,
        width: int | None = None,
        *,
        depth: int = 0,
        mlp: int | None = None,
        columns: int = 8,
        policy: str = "attention",
        k_max: int = 8,
        seed: int = 0,
    ) -> JointSampler:
        """A fresh, untrained sampler for ``teacher``; ``width`` defaults to its hidden size.

        ``mlp``: inner width of the MLP, by default the teacher's, scaled with ``width``.
        ``depth``: lower layers of the teacher that run before the sampler's; 0 is the
        paper's form. ``columns`` and ``policy``: which columns a hybrid recomputes,
        unless its user names others. ``k_max``: reveals of the longest round that it
        will be trained for.

        Raises UserError where the width does not fit the teacher's heads, the teacher
        has no layers above ``depth``, or cannot rerun a few columns.
        """
        width = width or teacher.hidden_size
        if not 0 <= depth < teacher.layers:
            raise UserError(
                f"Teacher {teacher.name!r} has {teacher.layers} layers: a sampler's depth lies between 0 "
                f"(the paper's form) and {teacher.layers - 1}, not {depth}."
            )
        if depth:
            check_rerun(teacher)
        shape = teacher.layer_shape(width)
        config = JointSamplerConfig(
            teacher_hidden_size=teacher.hidden_size,
            width=width,
            heads=shape.heads,
            head_dim=shape.head_dim,
            intermediate_size=mlp or shape.intermediate_size,
            rope_theta=shape.rope_theta,
            norm_eps=shape.norm_eps,
            teacher_name=teacher.name,
            teacher_fingerprint=teacher.fingerprint,
            k_max=k_max,
            depth=depth,
            columns=columns,
            policy=policy,
        )
        if teacher.device.type == "meta":  # a description: no memory, no draws
            with teacher.device:
                return cls(config)
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

    def beside(self, teacher: Teacher) -> JointSampler:
        """This module on the teacher's device and in its precision, for sampling."""
        probe = torch.zeros(1, 1, dtype=torch.long, device=teacher.device)
        return self.to(teacher.device, teacher.embed(probe).dtype)

    def reading(self, teacher: Teacher) -> Teacher:
        """``teacher`` with the states that this sampler reads; UserError unless made for it."""
        self.check_teacher(teacher)
        depth = self.config.depth
        return teacher.reading((depth, teacher.layers)) if depth else teacher

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
