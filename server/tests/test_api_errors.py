"""What errors tell: the reason, and nothing of the machine."""

from __future__ import annotations

import pytest

from quire_server.errors import failed, overloaded, unauthorized, unavailable


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no such file: /usr/lib/python3/x.py, line 3", "no such file: ..., line 3"),
        ("<Object at 0x7f00deadbeef> failed", "<Object at ...> failed"),
        ("lost ipc:///tmp/quire-1/engine.sock", "lost ..."),
        ("lost tcp://127.0.0.1:5555", "lost ..."),
        ("The engine has died: CUDA error 700.", "The engine has died: CUDA error 700."),
        ("3/4 of the blocks and/or the like", "3/4 of the blocks and/or the like"),
    ],
)
def test_what_the_engine_says_is_told_without_addresses_and_paths(said: str, told: str) -> None:
    assert failed(said).message == told
    assert unavailable(said).message == told


def test_headers_that_clients_act_on() -> None:
    assert int(overloaded("full").headers["Retry-After"]) > 0
    assert int(unavailable("draining").headers["Retry-After"]) > 0
    assert unauthorized("no").headers["WWW-Authenticate"] == "Bearer"
