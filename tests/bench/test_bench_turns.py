"""Turns: order, groups that fit the memory, repetition of what was disturbed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.turns import Repeated, groups, rotated


@dataclass(frozen=True, slots=True)
class Shared:
    """A measurement of which only the disturbance matters."""

    others: float


@given(st.lists(st.integers(), max_size=6), st.integers(0, 50))
def test_rotation_keeps_all_and_moves_the_first(items: list[int], round_: int) -> None:
    turned = list(rotated(items, round_))
    assert sorted(turned) == sorted(items)
    if items:
        assert turned[0] == items[round_ % len(items)]


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.1, 9.0), max_size=8),
    st.floats(0.0, 40.0),
)
def test_groups_hold_every_peer_once_and_fit(needs: dict[str, float], room: float) -> None:
    always = ["a", "b"]
    found = groups(needs, always, room)
    constant = [name for name in needs if name in always]
    own = [[name for name in group if name not in always] for group in found]
    assert [name for group in own for name in group] == [name for name in needs if name not in always]
    for group, rest in zip(found, own, strict=True):
        assert group[: len(constant)] == constant
        assert len(rest) <= 1 or sum(needs[name] for name in group) <= room + 1e-6


def test_peers_beyond_the_room_come_in_a_second_group() -> None:
    needs = {"quire": 3.0, "vllm": 4.0, "roofline": 1.0, "openvino": 4.0, "transformers": 2.0}
    found = groups(needs, ["quire", "roofline"], 10.0)
    assert found == [["quire", "roofline", "vllm"], ["quire", "roofline", "openvino", "transformers"]]


@pytest.mark.parametrize(
    ("shares", "kept", "made"),
    [([0.01], 0.01, 1), ([0.3, 0.02], 0.02, 2), ([0.3, 0.1, 0.2], 0.1, 3)],
)
def test_disturbed_measurements_are_repeated(shares: list[float], kept: float, made: int) -> None:
    attempts: list[int] = []

    def once(attempt: int) -> Shared:
        attempts.append(attempt)
        return Shared(shares[attempt])

    assert Repeated(bound=0.05, attempts=3).measure(once).others == kept
    assert attempts == list(range(made))
