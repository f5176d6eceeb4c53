"""Forward passes in float64 with explicit matrices, one sequence at a time, no padding.

What a family's logits must equal. Written from the papers; shares no code with
the library, and none with transformers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray

Weights = dict[str, ndarray]


def softmax(x: ndarray) -> ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x: ndarray) -> ndarray:
    return x / (1 + np.exp(-x))


def rms_norm(x: ndarray, weight: ndarray, eps: float) -> ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x: ndarray, weight: ndarray, bias: ndarray | float, eps: float) -> ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def rope(x: ndarray, theta: float) -> ndarray:
    """[S, D]: pairs (i, i + D/2) turned by position * theta^(-2i/D)."""
    length, size = x.shape
    out = np.empty_like(x)
    for position in range(length):
        for i in range(size // 2):
            angle = position * theta ** (-2 * i / size)
            a, b = x[position, i], x[position, i + size // 2]
            out[position, i] = a * math.cos(angle) - b * math.sin(angle)
            out[position, i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attention(
    q: ndarray, k: ndarray, v: ndarray, heads: int, turn=lambda x: x, norms=None
) -> ndarray:
    """q [S, heads * D], k and v [S, kv * D]: every position sees every position."""
    size = q.shape[1] // heads
    shared = heads // (k.shape[1] // size)
    outputs = []
    for head in range(heads):
        own, group = slice(head * size, (head + 1) * size), head // shared
        theirs = slice(group * size, (group + 1) * size)
        qh, kh = q[:, own], k[:, theirs]
        if norms is not None:
            qh, kh = rms_norm(qh, norms[0], norms[2]), rms_norm(kh, norms[1], norms[2])
        scores = turn(qh) @ turn(kh).T / math.sqrt(size)
        outputs.append(softmax(scores) @ v[:, theirs])
    return np.concatenate(outputs, axis=1)


def decoder(w: Weights, config: dict, ids: list[int]) -> ndarray:
    """Logits of a Llama-like network under Qwen's tensor names: dense or mixture of experts."""
    eps, theta = config["rms_norm_eps"], config["rope_theta"]
    x = w["model.embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = rms_norm(x, w[f"{at}input_layernorm.weight"], eps)
        q, k, v = (
            y @ w[f"{at}self_attn.{n}_proj.weight"].T + w.get(f"{at}self_attn.{n}_proj.bias", 0.0)
            for n in "qkv"
        )
        norms = None
        if f"{at}self_attn.q_norm.weight" in w:
            norms = (w[f"{at}self_attn.q_norm.weight"], w[f"{at}self_attn.k_norm.weight"], eps)
        mixed = attention(q, k, v, config["num_attention_heads"], lambda h: rope(h, theta), norms)
        x = x + mixed @ w[f"{at}self_attn.o_proj.weight"].T
        y = rms_norm(x, w[f"{at}post_attention_layernorm.weight"], eps)
        x = x + (
            experts(w, at, config, y) if f"{at}mlp.gate.weight" in w else mlp(w, f"{at}mlp.", y)
        )
    x = rms_norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def mlp(w: Weights, at: str, x: ndarray) -> ndarray:
    gate, up = x @ w[f"{at}gate_proj.weight"].T, x @ w[f"{at}up_proj.weight"].T
    return (silu(gate) * up) @ w[f"{at}down_proj.weight"].T


def experts(w: Weights, at: str, config: dict, x: ndarray) -> ndarray:
    """Softmax over all experts, the best few at their own probability, not renormalised."""
    out = np.zeros_like(x)
    for position, row in enumerate(x):
        share = softmax(w[f"{at}mlp.gate.weight"] @ row)
        for e in np.argsort(-share)[: config["num_experts_per_tok"]]:
            out[position] += share[e] * mlp(w, f"{at}mlp.experts.{e}.", row[None])[0]
    return out


def llada(w: Weights, config: dict, ids: list[int]) -> ndarray:
    heads, eps, theta = config["n_heads"], config["rms_norm_eps"], config["rope_theta"]
    x = w["model.transformer.wte.weight"][ids]
    for i in range(config["n_layers"]):
        at = f"model.transformer.blocks.{i}."
        y = rms_norm(x, w[f"{at}attn_norm.weight"], eps)
        q, k, v = (y @ w[f"{at}{n}_proj.weight"].T for n in "qkv")
        x = x + attention(q, k, v, heads, lambda h: rope(h, theta)) @ w[f"{at}attn_out.weight"].T
        y = rms_norm(x, w[f"{at}ff_norm.weight"], eps)
        gated = silu(y @ w[f"{at}ff_proj.weight"].T) * (y @ w[f"{at}up_proj.weight"].T)
        x = x + gated @ w[f"{at}ff_out.weight"].T
    x = rms_norm(x, w["model.transformer.ln_f.weight"], eps)
    return x @ w["model.transformer.ff_out.weight"].T


def gelu(x: ndarray) -> ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: ndarray) -> ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bert(w: Weights, config: dict, ids: list[int]) -> ndarray:
    eps = config["layer_norm_eps"]

    def linear(name: str, x: ndarray) -> ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: ndarray) -> ndarray:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps)

    emb = "bert.embeddings."
    x = w[f"{emb}word_embeddings.weight"][ids] + w[f"{emb}token_type_embeddings.weight"][0]
    x = norm(f"{emb}LayerNorm", x + w[f"{emb}position_embeddings.weight"][: len(ids)])
    for i in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{i}."
        q, k, v = (linear(f"{at}attention.self.{n}", x) for n in ("query", "key", "value"))
        mixed = attention(q, k, v, config["num_attention_heads"])
        x = norm(
            f"{at}attention.output.LayerNorm", x + linear(f"{at}attention.output.dense", mixed)
        )
        inner = gelu(linear(f"{at}intermediate.dense", x))
        x = norm(f"{at}output.LayerNorm", x + linear(f"{at}output.dense", inner))
    x = gelu(linear("cls.predictions.transform.dense", x))
    x = norm("cls.predictions.transform.LayerNorm", x)
    return x @ w[f"{emb}word_embeddings.weight"].T + w["cls.predictions.bias"]


def mdlm(w: Weights, config: dict, ids: list[int]) -> ndarray:
    w = {name.removeprefix("backbone."): value for name, value in w.items()}
    waves = np.concatenate([np.ones(128), np.zeros(128)])  # cos and sin of noise level 0
    inner = silu(w["sigma_map.mlp.0.weight"] @ waves + w["sigma_map.mlp.0.bias"])
    condition = silu(w["sigma_map.mlp.2.weight"] @ inner + w["sigma_map.mlp.2.bias"])

    def modulation(at: str, parts: int) -> list[ndarray]:
        name = f"{at}adaLN_modulation"
        return np.split(w[f"{name}.weight"] @ condition + w[f"{name}.bias"], parts)

    x = w["vocab_embed.embedding"][ids]
    for i in range(config["n_blocks"]):
        at = f"blocks.{i}."
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation(at, 6)
        y = layer_norm(x, w[f"{at}norm1.weight"], 0.0, 1e-5) * (1 + scale1) + shift1
        q, k, v = np.split(y @ w[f"{at}attn_qkv.weight"].T, 3, axis=1)
        mixed = attention(q, k, v, config["n_heads"], lambda h: rope(h, 10_000.0))
        x = x + gate1 * (mixed @ w[f"{at}attn_out.weight"].T)
        y = layer_norm(x, w[f"{at}norm2.weight"], 0.0, 1e-5) * (1 + scale2) + shift2
        inner = gelu_tanh(y @ w[f"{at}mlp.0.weight"].T + w[f"{at}mlp.0.bias"])
        x = x + gate2 * (inner @ w[f"{at}mlp.2.weight"].T + w[f"{at}mlp.2.bias"])
    shift, scale = modulation("output_layer.", 2)
    x = layer_norm(x, w["output_layer.norm_final.weight"], 0.0, 1e-5) * (1 + scale) + shift
    return x @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"]
