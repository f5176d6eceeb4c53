"""The joint sampler: one small bidirectional transformer layer on a frozen teacher.

Given the embedding of the canvas after a reveal and the previous hidden states
it predicts the next hidden states, which the *teacher's own* frozen LM head
reads (arXiv 2509.22738, section 3). It may also read intermediate layers of the
teacher, as they were when the block was opened, and the embeddings beside each
position, which spare its one attention the hop from a revealed token to the
positions next to it. The output projection starts at zero, so an untrained
sampler is exactly the marginal model. How it is trained is left to ``distill/``,
how it is used to ``decoding/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import UserError
from ..teachers.protocol import Teacher, position_ids
from ..teachers.weights import quiet
from ..window import Window
from .estimator import KLEstimator

# Shipped samplers, each for the embedded teacher of its name.
EMBEDDED = {"tiny": Path(__file__).parents[1] / "samplers" / "tiny"}


class JointSamplerConfig(PretrainedConfig):
    model_type = "jointsampler"

    def __init__(
        self,
        teacher_hidden_size: int = 192,
        width: int = 192,
        layers: int = 1,
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
        window: int = 0,
        rank: int = 0,
        **kwargs,
    ):
        self.teacher_hidden_size = teacher_hidden_size
        self.width = width
        self.layers = layers
        self.heads = heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.rope_theta = rope_theta
        self.norm_eps = norm_eps
        self.teacher_name = teacher_name
        self.teacher_fingerprint = teacher_fingerprint
        self.k_max = k_max  # the block length that it was trained for
        self.read_layers = list(read_layers)  # of the teacher, besides its final hidden states
        self.neighbors = neighbors  # on each side, whose embeddings a position reads
        self.window = window  # candidate positions a block is confined to; 0: all
        self.rank = rank  # directions in which hidden states are moved; 0: all
        super().__init__(**kwargs)


def sampler_folder(path: str | Path) -> Path:
    """The folder that a shipped sampler's name or a path means."""
    return EMBEDDED.get(str(path), Path(path))


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [..., S, head_dim / 2] float32 of rotary embeddings at ``positions`` [..., S]."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions[..., None].float() * theta**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [B, heads, S, head_dim], half-split convention."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


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


def beside(
    x: Tensor, count: int, attention_mask: Tensor | None, columns: Tensor | None = None
) -> Tensor:
    """[B, C, 2 * count * H]: x [B, S, H] of ``count`` positions on each side of ``columns`` [B, C], or of all.

    It is zero past the ends, and what attention_mask [B, S] hides is past the
    ends as well, so padding changes nothing.
    """
    if attention_mask is not None:
        x = x * attention_mask[..., None]
    padded = F.pad(x, (0, 0, count, count))
    offsets = [o for o in range(2 * count + 1) if o != count]
    if columns is None:
        return torch.cat([padded[:, o : o + x.shape[1]] for o in offsets], dim=-1)
    return torch.cat([at_columns(padded, columns + o) for o in offsets], dim=-1)


def at_columns(x: Tensor, columns: Tensor) -> Tensor:
    """x [B, S, D] at columns [B, C] -> [B, C, D]."""
    return x.gather(1, columns[..., None].expand(-1, -1, x.shape[-1]))


def check_window(window: int, layers: int, k_max: int, rank: int) -> None:
    """UserError where a sampler cannot have such a window, or a rank without one."""
    if rank and not window:
        raise UserError(
            f"A rank of {rank} corrects the logits kept at a block's candidates: give the sampler a "
            "window, or rank=0."
        )
    if window and layers > 1:
        raise UserError(
            f"A window of {window} keeps the keys and values of one layer, and the sampler has {layers}: "
            "use one layer, or window=0."
        )
    if window and window < k_max:
        raise UserError(
            f"A window of {window} positions is smaller than the block length k_max={k_max}: widen it, "
            "or use window=0 for all positions."
        )


class Norm(nn.RMSNorm):
    """RMSNorm in the weight's own precision, also where autocast hands over something coarser."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Attention of [B, heads, S, head_dim] each, in float32 on a CPU.

    There the fused kernel's backward pass in bfloat16 is five times slower.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=key_mask)
    return mixed.to(v.dtype)


class Layer(nn.Module):
    """Pre-norm attention over all positions, then a gated MLP; [B, S, W] -> [B, S, W].

    With a window, x is what stands at its positions, [B, c, W], and the keys and
    values of all others are the window's. With ``columns`` [B, C] all are read and
    only these come back, [B, C, W].
    """

    def __init__(self, config: JointSamplerConfig):
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.attention_norm = Norm(config.width, eps=config.norm_eps)
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.attention_out = nn.Linear(inner, config.width, bias=False)
        self.mlp_norm = Norm(config.width, eps=config.norm_eps)
        self.gate_up = nn.Linear(config.width, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.width, bias=False)

    def attention_inputs(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Rotated queries and keys, and values, each [B, heads, S, head_dim]."""
        batch, length, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        key_mask: Tensor | None,
        window: Window | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.attention_inputs(x, cos, sin)
        if columns is not None:
            x = at_columns(x, columns)
            q = q.gather(2, columns[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
        batch, length, _ = x.shape
        if window is not None:
            where = window.columns[:, None, :, None].expand_as(k)
            k = window.keys.scatter(2, where, k.to(window.keys.dtype))
            v = window.values.scatter(2, where, v.to(window.values.dtype))
        mixed = attend(q, k, v, key_mask)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class JointSampler(PreTrainedModel):
    """h_j = h_{j-1} + project(layer(fuse(norm(embedding), norm(h_{j-1})))); weights shared over j."""

    config_class = JointSamplerConfig
    base_model_prefix = ""
    main_input_name = "embedding"

    def __init__(self, config: JointSamplerConfig):
        super().__init__(config)
        hidden = config.teacher_hidden_size
        self.embedding_norm = Norm(hidden, eps=config.norm_eps)
        self.hidden_norm = Norm(hidden, eps=config.norm_eps)
        self.layer_norms = nn.ModuleList(
            Norm(hidden, eps=config.norm_eps) for _ in config.read_layers
        )
        self.fuse = nn.Linear((2 + len(config.read_layers)) * hidden, config.width, bias=False)
        if config.neighbors:
            self.beside = nn.Linear(2 * config.neighbors * hidden, config.width, bias=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.final_norm = Norm(config.width, eps=config.norm_eps)
        self.project = nn.Linear(config.width, config.rank or hidden, bias=False)
        if config.rank:
            self.lift = nn.Linear(config.rank, hidden, bias=False)
        self._directions: tuple[tuple, Tensor] | None = None  # see :meth:`directions`
        self.estimator = KLEstimator(hidden, config.norm_eps)
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
        window: Window | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """One sampler pass.

        embedding [B, S, H] of the canvas after the last reveal, states
        [B, S, (1 + F) H] (those of :meth:`reading`'s teacher, or this function's
        own), attention_mask [B, S] bool, False on left padding -> states
        [B, S, (1 + F) H]: new hidden states, and the teacher's F layers as they were.
        A sampler of low rank adds, in R further channels, how far it has moved
        them in each of its directions since the block opened.

        With a ``window``, one per block, states change at its positions alone; the
        block's first pass fills it. With ``columns`` [B, C] int64 only the states there
        come back, [B, C, (1 + F) H]: enough of a pass that no other follows, and about
        half the work without a window.
        """
        config = self.config
        if states.shape[-1] == self.read_size:
            states = F.pad(states, (0, config.rank))
        if attention_mask is None:
            positions = torch.arange(embedding.shape[1], device=embedding.device)[None]
            key_mask = None
        else:
            positions = position_ids(attention_mask)
            key_mask = attention_mask[:, None, None, :]
        cos, sin = rotary_angles(positions, config.head_dim, config.rope_theta)
        if window is None:
            x = self.read(embedding, states, attention_mask)
            cos, sin = cos[:, None], sin[:, None]  # one angle for all heads
            *below, top = self.layers
            for layer in below:
                x = layer(x, cos, sin, key_mask)
            x = top(x, cos, sin, key_mask, columns=columns)
            return self.moved(states if columns is None else at_columns(states, columns), x)
        (layer,) = self.layers
        if window.keys is None:
            x = self.read(embedding, states, attention_mask)
            _, window.keys, window.values = layer.attention_inputs(x, cos[:, None], sin[:, None])
        inside = window.columns
        cos, sin = (
            at_columns(angle.expand(len(inside), -1, -1), inside)[:, None] for angle in (cos, sin)
        )
        x = self.read(embedding, states, attention_mask, inside)
        x = layer(x, cos, sin, key_mask, window)
        moved = self.moved(at_columns(states, inside), x)
        states = states.to(moved.dtype).scatter(1, inside[..., None].expand_as(moved), moved)
        return states if columns is None else at_columns(states, columns)

    def read(
        self,
        embedding: Tensor,
        states: Tensor,
        attention_mask: Tensor | None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """What enters the layer, [B, S, W], or [B, C, W] at ``columns`` [B, C]."""
        tokens = self.embedding_norm(
            embedding if columns is None else at_columns(embedding, columns)
        )
        states = states if columns is None else at_columns(states, columns)
        previous, *read = states[..., : self.read_size].split(
            self.config.teacher_hidden_size, dim=-1
        )
        inputs = [tokens, self.hidden_norm(previous)]
        inputs += [norm(layer) for norm, layer in zip(self.layer_norms, read, strict=True)]
        x = self.fuse(torch.cat(inputs, dim=-1))
        if self.config.neighbors:
            count = self.config.neighbors
            if columns is None:
                around = beside(tokens, count, attention_mask)
            else:  # the norm of what is read alone; zero stays zero
                around = beside(embedding, count, attention_mask, columns)
                around = self.embedding_norm(around.unflatten(-1, (2 * count, -1))).flatten(-2)
            x = x + self.beside(around)
        return x

    def moved(self, states: Tensor, x: Tensor) -> Tensor:
        """``states`` [B, C, (1 + F) H] with new hidden states from the layer's output x [B, C, W]."""
        size, read = self.config.teacher_hidden_size, self.read_size
        step = self.project(self.final_norm(x))
        hidden = states[..., :size] + (self.lift(step) if self.config.rank else step)
        parts = [hidden, states[..., size:read], states[..., read:]]
        if self.config.rank:
            parts[2] = parts[2] + step
        return torch.cat(parts, dim=-1)

    @property
    def read_size(self) -> int:
        """Channels of the teacher's states that it reads, (1 + F) H."""
        return (1 + len(self.config.read_layers)) * self.config.teacher_hidden_size

    @torch.no_grad()
    def directions(self, teacher: Teacher) -> Tensor:
        """[R, V] float32: what a step in each direction adds to the teacher's logits, which are linear.

        Forbidden ids stay forbidden: nothing is added to them. Kept until the weights change.
        """
        weight = self.lift.weight
        now = (teacher.fingerprint, weight.data_ptr(), weight._version)
        if self._directions is None or self._directions[0] != now:
            zero = teacher.logits(torch.zeros_like(weight[:, 0]))
            moved = teacher.logits(weight.T) - zero
            self._directions = now, moved.masked_fill(zero == -torch.inf, 0.0)
        return self._directions[1]

    @classmethod
    def for_teacher(
        cls,
        teacher: Teacher,
        width: int | None = None,
        layers: int = 1,
        seed: int = 0,
        k_max: int = 8,
        features: int = 0,
        neighbors: int = 0,
        window: int = 0,
        rank: int = 0,
    ) -> JointSampler:
        """A fresh, untrained sampler for ``teacher``; ``width`` defaults to its hidden size.

        ``k_max``: the longest block that it will be trained for. ``features``:
        how many intermediate layers of the teacher it reads, evenly spaced.
        ``neighbors``: of how many positions on each side it reads the embeddings.
        ``window``: to how many candidate positions a block is confined; 0 is all.
        ``rank``: in how many directions it moves hidden states, 0 is all; the LM head
        is then read only as a block opens and corrected after (``decoding/readout.py``).

        Raises UserError where the width does not fit the teacher's heads or the window the rest, and
        for a rank without a window or with a head that is not linear.
        """
        check_window(window, layers, k_max, rank)
        if rank >= teacher.hidden_size:
            raise UserError(
                f"A rank of {rank} is no less than the teacher's hidden size, {teacher.hidden_size}: the "
                "correction would cost more than the LM head. Take less, or rank=0."
            )
        if rank and not teacher.linear_head:
            raise UserError(
                f"Teacher {teacher.name!r} has an LM head that is not linear, so its logits cannot be "
                "corrected: set rank=0."
            )
        width = width or teacher.hidden_size
        shape = teacher.layer_shape(width)
        config = JointSamplerConfig(
            teacher_hidden_size=teacher.hidden_size,
            width=width,
            layers=layers,
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
            window=window,
            rank=rank,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config).to(teacher.device)

    @classmethod
    def from_pretrained(cls, path, *args, **kwargs) -> JointSampler:
        """As in transformers, for a local folder or a shipped sampler's name; in evaluation mode.

        Raises UserError if it holds no sampler.
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

    def check_block(self, k: int) -> None:
        """UserError where a block of ``k`` reveals does not fit the window."""
        if 0 < self.config.window < k:
            raise UserError(
                f"k={k} exceeds the window of {self.config.window} positions that this sampler was "
                "trained with: take a smaller k."
            )

    def check_teacher(self, teacher: Teacher) -> None:
        """UserError unless this sampler was made for ``teacher`` and is on its device."""
        if self.device != teacher.device:
            raise UserError(
                f"The sampler is on {self.device}, teacher {teacher.name!r} on {teacher.device}: move it "
                "with sampler.to(teacher.device)."
            )
        self.check_fingerprint(teacher)

    def check_fingerprint(self, teacher: Teacher) -> None:
        """UserError unless this sampler was made for ``teacher``, wherever both are."""
        if self.config.teacher_fingerprint != teacher.fingerprint:
            raise UserError(
                f"This sampler was distilled from teacher {self.config.teacher_name!r} "
                f"({self.config.teacher_fingerprint}), not from {teacher.name!r} "
                f"({teacher.fingerprint}): load its own teacher or train a sampler for this one."
            )
