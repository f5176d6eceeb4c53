"""MDLM (kuleshov-group/mdlm-owt and others): a DiT over GPT-2's vocabulary plus a mask.

Architecture: Sahoo et al. 2024 (arXiv 2406.07524, appendix C.2), after Peebles
and Xie 2023. transformers has no class for it, so this file holds the network.
The published checkpoints have no time conditioning: every pass is at noise level 0.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ...errors import UserError
from ..checkpoint import Checkpoint
from ..columns import KeyValues, exchange, rerunning, storing
from ..options import LoadOptions
from ..protocol import LayerShape, position_ids, scaled_layer
from ..tokenization import load_tokenizer, special_ids, suppression

NAME = "mdlm"
_FREQUENCIES = 256  # width of the sinusoidal features of the noise level
_TOKENIZER = "gpt2"  # the checkpoints have none of their own


def matches(config: dict[str, Any]) -> bool:
    return str(config.get("model_type", "")).lower() == "mdlm"


def load(checkpoint: Checkpoint, options: LoadOptions) -> MDLMTeacher:
    if checkpoint.config.get("time_conditioning"):
        raise UserError(
            f"{checkpoint.folder} conditions on the diffusion time, and decoding here has none: "
            "choose an MDLM checkpoint with time_conditioning: false."
        )
    if options.quantization != "none":
        raise UserError(
            "teacher.quantization works for stock transformers classes only: set it to none for MDLM."
        )
    own = (checkpoint.folder / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(checkpoint, options.tokenizer or (None if own else _TOKENIZER))
    vocab = checkpoint.require("vocab_size")
    # The mask is the last id, after GPT-2's. GPT-2's end of text opens and ends a document.
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            f"The tokenizer for {checkpoint.folder} names no eos_token: set teacher.tokenizer to GPT-2's."
        )
    ids = special_ids(checkpoint, tokenizer, mask=vocab - 1, bos=end, eos=end, pad=end)
    network = Network(checkpoint)
    if options.device.type != "meta":
        _read_weights(network, checkpoint)
        network = network.to(device=options.device, dtype=options.dtype)
    return MDLMTeacher(network, checkpoint, tokenizer, ids)


def _read_weights(network: Network, checkpoint: Checkpoint) -> None:
    state: dict[str, Tensor] = {}
    try:
        for path in sorted(checkpoint.folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (a safetensors file is not a dict)
                    if not key.endswith("rotary_emb.inv_freq"):
                        state[key.removeprefix("backbone.")] = file.get_tensor(key)
        network.load_state_dict(state, assign=True)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = "; ".join(lines[1:3] or lines[:1])
        raise UserError(f"Cannot load the weights in {checkpoint.folder}: {reason}") from None


class Block(nn.Module):
    def __init__(self, width: int, conditioning: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = nn.Linear(conditioning, 6 * width)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        rotary: tuple[Tensor, Tensor],
        heads: int,
        mask: Tensor | None,
    ) -> Tensor:
        """x [B, S or C, width] -> the same shape; mask [B, 1, S, S] bool."""
        batch, length, width = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6)
        y = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = self.attn_qkv(y).view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        k, v, mask = exchange(q, k, v, mask)
        y = F.scaled_dot_product_attention(q, k, v, mask)
        x = x + gate1 * self.attn_out(y.transpose(1, 2).reshape(batch, length, width))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class Embedding(nn.Module):
    def __init__(self, vocab: int, width: int):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(vocab, width))


class NoiseLevel(nn.Module):
    def __init__(self, conditioning: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(_FREQUENCIES, conditioning), nn.SiLU(), nn.Linear(conditioning, conditioning)
        )

    def at_zero(self) -> Tensor:
        """[conditioning]: at noise level 0 all cosines are 1 and all sines are 0."""
        weight = self.mlp[0].weight
        half = _FREQUENCIES // 2
        features = torch.cat([torch.ones(half), torch.zeros(half)]).to(weight)
        return F.silu(self.mlp(features))


class Output(nn.Module):
    def __init__(self, vocab: int, width: int, conditioning: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, bias=False)
        self.linear = nn.Linear(width, vocab)
        self.adaLN_modulation = nn.Linear(conditioning, 2 * width)


class Network(nn.Module):
    """Attribute names are the checkpoint's tensor names."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        width, vocab = checkpoint.require("hidden_dim"), checkpoint.require("vocab_size")
        conditioning = checkpoint.require("cond_dim")
        self.heads = checkpoint.require("n_heads")
        with torch.device("meta"):
            self.vocab_embed = Embedding(vocab, width)
            self.sigma_map = NoiseLevel(conditioning)
            self.blocks = nn.ModuleList(
                Block(width, conditioning) for _ in range(checkpoint.require("n_blocks"))
            )
            self.output_layer = Output(vocab, width, conditioning)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        read: tuple[int, ...] = (),
        depth: int | None = None,
    ) -> Tensor:
        """ids, positions [B, S]; mask [B, 1, S, S] bool -> [B, S, (1 + F) width].

        ``read`` names the F blocks (1 is the lowest) whose outputs follow the final
        ones. With ``depth`` the output of that block alone comes back, and no block
        above it runs.
        """
        x = F.embedding(ids, self.vocab_embed.embedding)
        rotary = rotary_angles(positions, x.shape[-1] // self.heads, x.dtype)
        condition = self.sigma_map.at_zero()
        kept = {}
        for number, block in enumerate(self.blocks[:depth], start=1):
            x = block(x, condition, rotary, self.heads, mask)
            if number in read:
                kept[number] = x
        if depth is not None:
            return x
        return torch.cat([self.finish(x), *(kept[layer] for layer in read)], dim=-1)

    def finish(self, x: Tensor) -> Tensor:
        """The last block's output [B, S, width] -> final hidden states."""
        condition = self.sigma_map.at_zero()
        shift, scale = self.output_layer.adaLN_modulation(condition).chunk(2)
        return self.output_layer.norm_final(x) * (1 + scale) + shift


def _positions(ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """[B, S] int64: counted from each row's first real token."""
    if attention_mask is not None:
        return position_ids(attention_mask)
    return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)


def rotary_angles(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, S, head_dim] of positions [B, S], computed in float32, then cast."""
    powers = torch.arange(0, head_dim, 2, device=positions.device) / head_dim
    angles = positions[:, None, :, None].float() / 10_000.0**powers
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class MDLMTeacher:
    """See :class:`jointsampler.teachers.protocol.Teacher` for methods and shapes."""

    family, shift = NAME, 0
    # The authors' ancestral sampling reveals in random order.
    generation_defaults: ClassVar[dict[str, float | str]] = {"order": "random"}

    def __init__(self, network: Network, checkpoint: Checkpoint, tokenizer, ids):
        self.model = network.eval().requires_grad_(False)
        self.name, self.fingerprint = checkpoint.name, checkpoint.fingerprint
        self.tokenizer, self.device = tokenizer, network.vocab_embed.embedding.device
        self.mask_id, self.bos_id, self.eos_id, self.pad_id = ids.mask, ids.bos, ids.eos, ids.pad
        self.end_ids = ids.ends
        self.vocab_size, self.hidden_size = network.vocab_embed.embedding.shape
        self.max_length = checkpoint.config.get("model_length", 1024)
        self.layers = len(network.blocks)
        self.read_layers: tuple[int, ...] = ()
        self.forbidden_ids = ids.forbidden(self.vocab_size, len(tokenizer))
        self._suppress = suppression(self.forbidden_ids, self.vocab_size, self.device)

    def hidden(
        self, ids: Tensor, attention_mask: Tensor | None = None, stored: KeyValues | None = None
    ) -> Tensor:
        mask = None
        if attention_mask is not None:
            # A padded query attends to itself: softmax over no keys at all is NaN.
            itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
            mask = (attention_mask[:, None, :].bool() | itself)[:, None]
        with storing(stored):
            return self.model(ids, _positions(ids, attention_mask), mask, self.read_layers)

    def rerun(
        self,
        ids: Tensor,
        columns: Tensor,
        attention_mask: Tensor | None,
        stored: KeyValues,
        depth: int | None = None,
    ) -> Tensor:
        positions = _positions(ids, attention_mask).gather(1, columns)
        with rerunning(stored, columns):  # the stored masks apply
            return self.model(ids.gather(1, columns), positions, None, depth=depth)

    def finish(self, outputs: Tensor) -> Tensor:
        return self.model.finish(outputs.to(self.model.output_layer.linear.weight.dtype))

    def reading(self, layers: Sequence[int]) -> MDLMTeacher:
        other = copy.copy(self)
        other.read_layers = tuple(layers)
        return other

    def logits(self, states: Tensor) -> Tensor:
        linear = self.model.output_layer.linear
        return (
            linear(states[..., : self.hidden_size].to(linear.weight.dtype)).float() + self._suppress
        )

    def embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.model.vocab_embed.embedding)

    def layer_shape(self, width: int) -> LayerShape:
        return scaled_layer(self, width, self.model.heads, 4 * self.hidden_size)
