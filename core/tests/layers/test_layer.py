from __future__ import annotations

from collections.abc import Callable

from torch import nn

from quire.layers import Build, finish, weight_bytes, weights_of


def test_the_walk_finds_nested_layers_in_order(make_build: Callable[..., Build]) -> None:
    build = make_build()
    model = nn.ModuleDict(
        {
            "inner": nn.ModuleList([build.norm("a", 4, 1e-6), build.linear("b", 4, 4, bias=True)]),
            "table": build.embedding("c", 5, 4),
        }
    )
    assert [w.name for w in weights_of(model)] == ["a.weight", "b.weight", "b.bias", "c.weight"]
    assert weight_bytes(model) == 4 * (4 + 16 + 4 + 20)
    finish(model)
    assert list(weights_of(model)) == []
    assert weight_bytes(model) == 4 * (4 + 16 + 4 + 20)
