from __future__ import annotations

import pytest

from quire.kv import TokenChain
from quire.request import CompiledGrammar
from quire.scheduler.state import RequestState, Sequence
from quire.scheduler.stopping import Stop, append_tokens

from .harness import request

EOS, STOP = 7, 8


def make(
    min_tokens: int = 0, max_len: int = 10, eos: tuple[int, ...] = (EOS,), form: bool = False
) -> Sequence:
    grammar = CompiledGrammar("tries", b"") if form else None
    asked = request("r", [1, 2], min_tokens=min_tokens, grammar=grammar)
    state = RequestState(asked, 0, max_len, frozenset(eos), frozenset({STOP, EOS}))
    token_ids = [1, 2]
    return Sequence(state, 0, 0, token_ids, TokenChain(token_ids, 4, b""))


@pytest.mark.parametrize(
    ("sequence", "sampled", "taken", "stop"),
    [
        (make(), [3, 4], 2, None),
        (make(), [3, EOS, 4], 2, Stop("stop")),
        (make(), [STOP], 1, Stop("stop", STOP)),
        (make(eos=()), [EOS], 1, Stop("stop", EOS)),
        (make(max_len=4), [3, 4, 5], 2, Stop("length")),
        (make(max_len=3), [EOS], 1, Stop("stop")),
        (make(min_tokens=2), [EOS, 3], 2, None),
        (make(min_tokens=2), [STOP, STOP, 3], 2, Stop("stop", STOP)),
        (make(min_tokens=3, max_len=4), [EOS, STOP, EOS], 2, Stop("length")),
        (make(min_tokens=4, form=True), [3, EOS, EOS], 2, Stop("stop")),
        (make(min_tokens=4, form=True), [3, STOP], 2, Stop("stop", STOP)),
        (make(), [], 0, None),
    ],
)
def test_tokens_are_appended_up_to_the_one_that_ends_the_sequence(
    sequence: Sequence, sampled: list[int], taken: int, stop: Stop | None
) -> None:
    assert append_tokens(sequence, sampled) == (taken, stop)
    assert sequence.token_ids == [1, 2, *sampled[:taken]]
