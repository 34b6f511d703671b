from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from quire.layers import Build, Embedding, finish, weight_bytes, weights_of

MakeBuild = Callable[..., Build]
Fill = Callable[..., None]

V, H = 11, 6  # odd, so that two workers have unequal shares


def _tensors() -> dict[str, torch.Tensor]:
    return {"embed.weight": torch.randn(V, H), "lm_head.weight": torch.randn(V, H)}


def _embedding(build: Build, tensors: dict[str, torch.Tensor], fill: Fill) -> Embedding:
    layer = build.embedding("embed", V, H)
    fill(layer.weights(), tensors)
    layer.finish()
    return layer


def test_embedding(make_build: MakeBuild, fill: Fill) -> None:
    tensors, ids = _tensors(), torch.tensor([0, 10, 3, 3])
    out = _embedding(make_build(), tensors, fill)(ids)
    torch.testing.assert_close(out, tensors["embed.weight"][ids])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_vocabulary_parallel_embeddings_sum(make_build: MakeBuild, fill: Fill, size: int) -> None:
    tensors, ids = _tensors(), torch.arange(V)
    parts = [_embedding(make_build(rank=r, size=size), tensors, fill)(ids) for r in range(size)]
    torch.testing.assert_close(torch.stack(parts).sum(0), tensors["embed.weight"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_heads_join_to_the_vocabulary(make_build: MakeBuild, fill: Fill, size: int, tied: bool) -> None:
    tensors, hidden = _tensors(), torch.randn(4, H)
    parts = []
    for rank in range(size):
        build = make_build(rank=rank, size=size)
        embedding = _embedding(build, tensors, fill)
        head = build.lm_head("lm_head", V, H, tied_to=embedding if tied else None)
        fill(list(weights_of(head)), tensors)
        finish(head)
        parts.append(head(hidden))
    expected = F.linear(hidden, tensors["embed.weight" if tied else "lm_head.weight"])
    # The joined shares are padded at the end; the head itself cuts that off.
    torch.testing.assert_close(torch.cat(parts, dim=-1)[:, :V], expected)
    assert size > 1 or parts[0].shape == (4, V)


def test_a_tied_head_counts_no_memory_twice(make_build: MakeBuild, fill: Fill) -> None:
    build = make_build()
    embedding = _embedding(build, _tensors(), fill)
    head = build.lm_head("lm_head", V, H, tied_to=embedding)
    finish(head)
    assert embedding.nbytes() == V * H * 4
    assert weight_bytes(head) == 0
    assert weight_bytes(build.lm_head("lm_head", V, H)) == V * H * 4
