from __future__ import annotations

import quire.layers


def test_public_names_are_sorted_and_exist() -> None:
    assert quire.layers.__all__ == sorted(quire.layers.__all__)
    for name in quire.layers.__all__:
        assert hasattr(quire.layers, name)
