"""An EAGLE-3 head in plain PyTorch, trained by the training-time test (https://arxiv.org/abs/2503.01840).

Row j joins the feature of position j, made of the target's hidden states there, with the token of position
j + 1, and learns the target's distribution of the token after that.  When the head goes on, what a row has
said about its own position is the feature of the next, so the later steps of training read that, not the
target's states: each row then sees the rows of the first step up to its own, and of the later ones its own.
So the rows of the later steps do not see one another, and some of them are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tiny_model.model import FeedForward, Llama, init_weights, rope_tables, rotate, working_dtype
from tiny_model.presets import PRESETS, HeadPreset


def load_target(name: str, directory: Path) -> Llama:
    """The model that a head proposes to, as published in `directory`; it learns nothing more."""
    model = Llama(PRESETS[name])
    tensors = load_file(directory / "model.safetensors")
    model.load_state_dict({key.removeprefix("model."): tensor.float() for key, tensor in tensors.items()})
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Rows:
    """Where the rows of one step lie and what they see.

    `cos` and `sin` [rows, head_dim]; `mask` [rows, keys]; `seen` are keys and values of the steps so far,
    each [batch, kv heads, rows, head_dim].
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor
    seen: list[tuple[Tensor, Tensor]]


class HeadAttention(nn.Module):
    """Self-attention over token and feature beside one another, for several steps of one training pass."""

    def __init__(self, preset: HeadPreset) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = preset.heads, preset.kv_heads, preset.head_dim
        inputs = 2 * preset.hidden
        self.q_proj = nn.Linear(inputs, preset.heads * preset.head_dim, bias=False)
        self.k_proj = nn.Linear(inputs, preset.kv_heads * preset.head_dim, bias=False)
        self.v_proj = nn.Linear(inputs, preset.kv_heads * preset.head_dim, bias=False)
        self.o_proj = nn.Linear(preset.heads * preset.head_dim, preset.hidden, bias=False)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """[batch, rows, 2 x hidden] -> [batch, rows, hidden]; what was seen gains these keys and values."""
        batch, count, _ = x.shape
        q = self.q_proj(x).view(batch, count, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, count, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, count, self.kv_heads, self.head_dim).transpose(1, 2)
        rows.seen.append((rotate(k, rows.cos, rows.sin), v))
        groups = self.heads // self.kv_heads
        keys, values = (
            torch.cat(parts, dim=2).repeat_interleave(groups, dim=1) for parts in zip(*rows.seen, strict=True)
        )
        q = rotate(q, rows.cos, rows.sin)
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=rows.mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        return out


class HeadLayer(nn.Module):
    """The decoder layer; its residual is the feature."""

    def __init__(self, preset: HeadPreset) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        self.hidden_norm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        self.self_attn = HeadAttention(preset)
        self.post_attention_layernorm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        self.mlp = FeedForward(preset)

    def forward(self, token: Tensor, feature: Tensor, rows: Rows) -> Tensor:
        """Embeddings and features of the rows -> features of the next, each [batch, rows, hidden]."""
        both = torch.cat((self.input_layernorm(token), self.hidden_norm(feature)), dim=-1)
        x = feature + self.self_attn(both, rows)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Eagle3(nn.Module):
    """The head; embedding and output projection are its target's, which are no part of it."""

    def __init__(self, preset: HeadPreset, target: Llama) -> None:
        super().__init__()
        self.preset = preset
        self._target = [target]  # in a list, so that its weights are not this module's
        self.fc = nn.Linear(len(preset.depths) * preset.hidden, preset.hidden, bias=False)
        self.midlayer = HeadLayer(preset)
        self.norm = nn.RMSNorm(preset.hidden, eps=preset.rms_eps)
        cos, sin = rope_tables(preset, max(preset.long_seq, preset.max_positions))
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        init_weights(self, preset.seed)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean of `losses`: both [batch, length], targets of -100 left out."""
        return self.mean(self.losses(ids, targets)[0])

    def mean(self, losses: Tensor) -> Tensor:
        """Of the losses of all steps [ahead]: the later a step, the less it counts."""
        weights = [self.preset.ahead_weight**step for step in range(self.preset.ahead)]
        return (losses * losses.new_tensor(weights)).sum() / sum(weights)

    def losses(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of each step: the cross-entropy to the target's distribution, and the chance to be accepted.

        Args:
            ids: [batch, length].
            targets: [batch, length], the token after each; -100 where it does not count.

        Returns:
            Two tensors [ahead], means over what counts.  The chance is that of a draft drawn at temperature 1
            (Leviathan et al. 2023): the sum over tokens of the lesser of both probabilities.
        """
        target, ahead, stride = self._target[0], self.preset.ahead, self.preset.stride
        length = ids.shape[1] - ahead
        with torch.no_grad():
            states = target.states(ids)
            embedded = target.embed_tokens(ids)
            expected = target.logits(target.norm(states[-1])).float().softmax(dim=-1)
        feature = self.fc(torch.cat([states[depth][:, :length] for depth in self.preset.depths], dim=-1))
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        dtype = working_dtype(feature)
        seen: list[tuple[Tensor, Tensor]] = []
        losses, chances = [], []
        for step in range(ahead):
            every = stride if step else 1
            there = slice(step + 1, step + 1 + length, every)
            if step == 1:
                feature, mask = feature[:, ::stride], mask[::stride]
            if step:
                mask = torch.cat((mask, torch.eye(len(mask), dtype=torch.bool)), dim=1)
            cos, sin = (table[step : step + length : every].to(dtype) for table in (self.cos, self.sin))
            feature = self.midlayer(embedded[:, there], feature, Rows(cos, sin, mask, seen))
            said = target.logits(self.norm(feature)).float().log_softmax(dim=-1)
            counts = (targets[:, there] != -100).float()
            total = counts.sum().clamp(min=1)
            losses.append(-((expected[:, there] * said).sum(dim=-1) * counts).sum() / total)
            with torch.no_grad():
                both = torch.minimum(expected[:, there], said.exp()).sum(dim=-1)
                chances.append((both * counts).sum() / total)
        return torch.stack(losses), torch.stack(chances)
