"""Accounts of what drafts cost and bring each sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire.scheduler.laggards import Account, Laggards


@dataclass
class Sequence:
    """Has as many tokens as it is said to."""

    num_output: int = 0
    account: Account = field(default_factory=Account)


def rooms(laggards: Laggards, *sequences: Sequence) -> list[float]:
    return laggards.room(sequences)  # type: ignore[arg-type]


def test_what_all_lose_leaves_each_the_room_that_it_had() -> None:
    laggards, some = Laggards(), [Sequence(), Sequence()]
    before = rooms(laggards, *some)
    laggards.charge(3.0)
    assert rooms(laggards, *some) == before == [0.5, 0.5]


def test_who_wins_less_than_others_has_less_room_and_they_have_more() -> None:
    laggards, lucky, unlucky = Laggards(), Sequence(), Sequence()
    rooms(laggards, lucky, unlucky)
    laggards.charge(1.0)
    laggards.credit(lucky, 2.0)  # type: ignore[arg-type]
    assert rooms(laggards, lucky, unlucky) == [0.5 + 1.0, 0.5 - 1.0]
    laggards.credit(lucky, 4.0)  # type: ignore[arg-type]
    assert rooms(laggards, lucky, unlucky) == [0.5 + 5.0 + 0.25 * 2.0, 0.5 - 1.0 + 0.25 * 2.0]


def test_room_grows_with_the_output() -> None:
    assert rooms(Laggards(), Sequence(num_output=100)) == [1.5]


def test_an_account_begins_when_its_sequence_does() -> None:
    laggards, old = Laggards(), Sequence()
    rooms(laggards, old)
    laggards.charge(2.0)
    assert rooms(laggards, Sequence()) == [0.5]


def test_a_step_is_borne_if_whoever_loses_by_it_has_room() -> None:
    assert Laggards.bear([-9.0, 0.5], cost=0.4, tokens=[0.4, 0.0])
    assert not Laggards.bear([-9.0, 0.5], cost=0.4, tokens=[0.3, 0.0])
    assert not Laggards.bear([9.0, 0.3], cost=0.4, tokens=[1.0, 0.0])
