"""The parts of a joint sampler: one pre-norm transformer layer with rotary positions, and gathers.

How the parts become a sampler is in ``model.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at_columns(x: Tensor, columns: Tensor) -> Tensor:
    """x [B, S, D] at columns [B, C] -> [B, C, D]."""
    return x.gather(1, columns[..., None].expand(-1, -1, x.shape[-1]))


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


class Norm(nn.RMSNorm):
    """RMSNorm in the precision of its weight, also where autocast passes a coarser input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Attention of [B, heads, S, head_dim] each, in float32 on a CPU.

    On a CPU the backward pass of the fused kernel is five times slower in bfloat16.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=key_mask)
    return mixed.to(v.dtype)


class Layer(nn.Module):
    """Pre-norm attention over all positions, then a gated MLP; [B, S, W] -> [B, S, W].

    With ``columns`` [B, C] the layer reads all positions and returns these alone, [B, C, W].
    """

    def __init__(self, width: int, heads: int, head_dim: int, intermediate: int, norm_eps: float):
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.attention_norm = Norm(width, eps=norm_eps)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.attention_out = nn.Linear(inner, width, bias=False)
        self.mlp_norm = Norm(width, eps=norm_eps)
        self.gate_up = nn.Linear(width, 2 * intermediate, bias=False)
        self.down = nn.Linear(intermediate, width, bias=False)

    def read(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, S, W] -> queries, keys and values [B, heads, S, head_dim] each."""
        qkv = self.qkv(self.attention_norm(x)).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def mix(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """x [B, C, W] with its queries, and the keys and values of all S positions -> [B, C, W]."""
        mixed = attend(q, k, v, key_mask).transpose(1, 2)
        x = x + self.attention_out(mixed.reshape(*x.shape[:2], -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        key_mask: Tensor | None,
        columns: Tensor | None = None,
    ) -> Tensor:
        q, k, v = self.read(x, cos, sin)
        if columns is not None:
            x = at_columns(x, columns)
            q = q.gather(2, columns[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
        return self.mix(x, q, k, v, key_mask)
