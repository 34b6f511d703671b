"""A Llama forward pass in plain PyTorch, with the parameter names of the Hugging Face checkpoint format."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tiny_model.presets import VOCAB_SIZE, Preset


def rope_tables(preset: Preset, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles: [length, head_dim], both halves alike."""
    exponents = torch.arange(0, preset.head_dim, 2, dtype=torch.float64) / preset.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float64), preset.rope_theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().float(), angles.sin().float()


def working_dtype(x: Tensor) -> torch.dtype:
    """That of products with `x`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads and rotary positions."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = preset.heads, preset.kv_heads, preset.head_dim
        self.q_proj = nn.Linear(preset.hidden, preset.heads * preset.head_dim, bias=False)
        self.k_proj = nn.Linear(preset.hidden, preset.kv_heads * preset.head_dim, bias=False)
        self.v_proj = nn.Linear(preset.hidden, preset.kv_heads * preset.head_dim, bias=False)
        self.o_proj = nn.Linear(preset.heads * preset.head_dim, preset.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class FeedForward(nn.Module):
    """The gated feed-forward block."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(preset.hidden, preset.intermediate, bias=False)
        self.up_proj = nn.Linear(preset.hidden, preset.intermediate, bias=False)
        self.down_proj = nn.Linear(preset.intermediate, preset.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        self.self_attn = Attention(preset)
        self.post_attention_layernorm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        self.mlp = FeedForward(preset)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def init_weights(model: nn.Module, seed: int) -> None:
    """The weights that training starts from."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            nn.init.ones_(parameter)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            # Every layer starts as the identity, which lets a short run use a high learning rate at once.
            nn.init.zeros_(parameter)
        elif name == "embed_tokens.weight":
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)


class Llama(nn.Module):
    """The decoder; the output projection is the embedding matrix."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB_SIZE, preset.hidden)
        self.layers = nn.ModuleList(Layer(preset) for _ in range(preset.layers))
        self.norm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        cos, sin = rope_tables(preset, max(preset.long_seq, preset.max_positions))
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        init_weights(self, preset.seed)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of `targets` after `ids`: both [batch, length], targets of -100 left out."""
        logits = self.logits(self.norm(self.states(ids)[-1]))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def states(self, ids: Tensor) -> list[Tensor]:
        """What enters each layer and, last, what leaves them: each [batch, length, hidden]."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        cos, sin = (table[:length].to(working_dtype(x)) for table in (self.cos, self.sin))
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], cos, sin))
        return states

    def logits(self, normed: Tensor) -> Tensor:
        """[..., hidden] -> [..., vocabulary]."""
        return F.linear(normed, self.embed_tokens.weight)
