from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from quire.kv import PrefixIndex, TokenChain, root_digest

tokens = st.lists(st.integers(0, 3), min_size=4, max_size=12)
texts = st.text(st.sampled_from("ab\x00\x01\x08"), max_size=3)


def digests(token_ids: list[int], extra: dict[str, str], block_size: int = 2) -> list[bytes]:
    chain = TokenChain(token_ids, block_size, root_digest(extra))
    return [chain.digest(i) for i in range(len(token_ids) // block_size)]


@given(tokens, tokens, st.dictionaries(texts, texts), st.dictionaries(texts, texts))
def test_digests_are_equal_just_as_far_as_tokens_and_extra_keys_are(
    one: list[int], other: list[int], extra_one: dict[str, str], extra_other: dict[str, str]
) -> None:
    for i, (a, b) in enumerate(zip(digests(one, extra_one), digests(other, extra_other), strict=False)):
        same = extra_one == extra_other and one[: 2 * i + 2] == other[: 2 * i + 2]
        assert (a == b) is same


def test_absent_empty_and_shifted_keys_differ() -> None:
    variants = [
        {},
        {"adapter": ""},
        {"cache_salt": ""},
        {"adapter": "x"},
        {"cache_salt": "x"},
        {"adapter": "x", "cache_salt": ""},
        {"adapter": "", "cache_salt": "x"},
        {"a": "bc"},
        {"ab": "c"},
    ]
    roots = [root_digest(extra) for extra in variants]
    assert all(a != b for a, b in itertools.combinations(roots, 2))
    assert root_digest({"a": "1", "b": "2"}) == root_digest({"b": "2", "a": "1"})


def test_a_chain_follows_the_tokens_appended_to_its_list() -> None:
    token_ids = [1, 2]
    chain = TokenChain(token_ids, 2, root_digest({}))
    first = chain.digest(0)
    token_ids += [3, 4]
    assert [first, chain.digest(1)] == digests([1, 2, 3, 4], {})


def test_a_forked_chain_goes_its_own_way() -> None:
    parent = TokenChain([1, 2, 3, 4], 2, root_digest({}))
    parent.digest(1)
    child = parent.fork([1, 2, 5, 6], 1)
    assert [child.digest(0), child.digest(1)] == digests([1, 2, 5, 6], {})
    assert parent.digest(1) == digests([1, 2, 3, 4], {})[1]


def test_the_first_block_with_a_content_keeps_its_place() -> None:
    index = PrefixIndex()
    assert index.insert(b"x", 1)
    assert not index.insert(b"x", 2)
    assert index.get(b"x") == 1
    assert list(index) == [1]
    index.remove(1)
    assert index.get(b"x") is None
    assert len(index) == 0
