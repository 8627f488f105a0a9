"""Mistral in plain NumPy float64, written from the papers and sharing no code with transformers or with the library.

It checks the goldens, mask included, by comparing absolute positions one pair at a time, and it can be told to make a
mistake, which shows how far each mistake moves the logits. Weights come by their Hugging Face names.
"""
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Geometry:
    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    theta: float
    eps: float
    adjacent: bool = False  # rotary pairs 2i, 2i + 1 instead of i, i + head_dim / 2
    kv_modulo: bool = False  # mistake: query head h reads key/value head h mod kv_heads
    scale_dim: int | None = None  # mistake: scores divided by the root of this instead of head_dim
    gate_up_swapped: bool = False  # mistake: silu on the wrong projection


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def frequencies(head_dim, theta):
    """1 / theta^(2i / head_dim) with exponent, power and reciprocal each rounded to float32."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1) / np.power(np.float64(theta), exponent.astype(np.float64)).astype(np.float32)


def rotate(x, positions, theta, adjacent):
    """x [tokens, heads, head_dim]. The angle is a float32 product, its sine and cosine are float64."""
    half = x.shape[-1] // 2
    angle = np.asarray(positions, np.float32)[:, None] * frequencies(x.shape[-1], theta)
    turn = np.exp(1j * angle.astype(np.float64))[:, None, :]
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) if adjacent else (x[..., :half] + 1j * x[..., half:])
    turned = pairs * turn
    if adjacent:
        return np.stack((turned.real, turned.imag), -1).reshape(x.shape)
    return np.concatenate((turned.real, turned.imag), -1)


def visible(tokens, window):
    """[query, key]: the query at i sees i - window < j <= i, written out pair by pair."""
    return np.array([[j <= i and (window is None or i - j < window) for j in range(tokens)] for i in range(tokens)])


def attention(x, w, prefix, g):
    n = len(x)
    q, k, v = (
        (x @ w[f"{prefix}.{name}_proj.weight"].T).reshape(n, heads, g.head_dim)
        for name, heads in (("q", g.query_heads), ("k", g.kv_heads), ("v", g.kv_heads))
    )
    q, k = (rotate(t, np.arange(n), g.theta, g.adjacent) for t in (q, k))
    mask = visible(n, g.window)
    out = np.empty_like(q)
    for h in range(g.query_heads):
        shared = h % g.kv_heads if g.kv_modulo else h * g.kv_heads // g.query_heads
        scores = np.where(mask, q[:, h] @ k[:, shared].T / np.sqrt(g.scale_dim or g.head_dim), -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, h] = e / e.sum(-1, keepdims=True) @ v[:, shared]
    return out.reshape(n, -1) @ w[f"{prefix}.o_proj.weight"].T


def feed_forward(x, w, prefix, g):
    gate, up = (x @ w[f"{prefix}.{name}_proj.weight"].T for name in ("gate", "up"))
    if g.gate_up_swapped:
        gate, up = up, gate
    return (gate / (1 + np.exp(-gate)) * up) @ w[f"{prefix}.down_proj.weight"].T


def logits(tokens, w, g):
    """[tokens, vocab] from token ids, weights by name and a Geometry."""
    x = w["model.embed_tokens.weight"][np.asarray(tokens)]
    for i in range(g.layers):
        layer = f"model.layers.{i}"
        x = x + attention(rms_norm(x, w[f"{layer}.input_layernorm.weight"], g.eps), w, f"{layer}.self_attn", g)
        x = x + feed_forward(rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], g.eps), w, f"{layer}.mlp", g)
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms_norm(x, w["model.norm.weight"], g.eps) @ head.T


def mistakes(g, tokens, hidden_size):
    """The mistakes that can show in this geometry: (name, geometry that makes it)."""
    if g.window is None or g.window >= tokens:
        yield "window n-1", replace(g, window=tokens - 1)
    else:
        yield "window + 1", replace(g, window=g.window + 1)
    if g.window != 1:  # with one key there is nothing to weigh
        yield "pairing", replace(g, adjacent=not g.adjacent)
        yield "theta", replace(g, theta=1e4 if g.theta > 1e4 else 1e6)
        if g.head_dim * g.query_heads != hidden_size:
            yield "scale", replace(g, scale_dim=hidden_size // g.query_heads)
    yield "eps", replace(g, eps=1e-6 if g.eps > 5e-6 else 1e-5)
    if 1 < g.kv_heads < g.query_heads:
        yield "sharing", replace(g, kv_modulo=True)
    yield "gate/up", replace(g, gate_up_swapped=True)
