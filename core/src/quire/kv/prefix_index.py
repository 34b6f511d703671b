"""Finding KV blocks by content: a chain of sha256 over token blocks.

Knows token ids and digests. Must never know holders or free blocks.

A digest stands for *everything* that decides a block's content: the tokens in it, all before it
(through the parent's digest), and the request's extra keys (through the root). A hit is believed on
the digest alone, without comparing token ids: sha256 is collision resistant even against
somebody who chooses the prompts, so a comparison would only add memory, and it would have to
walk the whole chain to mean anything. Python's `hash` or a 64-bit hash would need it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping

__all__ = ["PrefixIndex", "TokenChain", "root_digest"]


def root_digest(extra_keys: Mapping[str, str]) -> bytes:
    """Digest that a chain starts from.

    The encoding is unambiguous: tags are sorted, tag and value each carry their length, and the first
    byte tells a root from a block. An absent key differs from an empty value.

    Args:
        extra_keys: tag -> value of what decides the KV besides the tokens, e.g. adapter, cache salt.
    """
    digest = hashlib.sha256(b"\x00")
    for tag in sorted(extra_keys):
        for part in (tag.encode(), extra_keys[tag].encode("utf-8", "surrogatepass")):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


class TokenChain:
    """The digests of one sequence's full blocks, computed as they are asked for and kept.

    It reads `token_ids` in place: the owner may append to the list, and must not change what a
    digest was computed from. It outlives preemption, so a prompt is hashed once.
    """

    __slots__ = ("_block_size", "_digests", "_root", "_token_ids")

    def __init__(self, token_ids: list[int], block_size: int, root: bytes) -> None:
        self._token_ids = token_ids
        self._block_size = block_size
        self._root = root
        self._digests: list[bytes] = []

    def digest(self, block: int) -> bytes:
        """Digest of the sequence's block number `block`, all of whose tokens must be known."""
        digests, size = self._digests, self._block_size
        while len(digests) <= block:
            start = len(digests) * size
            tokens = array("q", self._token_ids[start : start + size])
            assert len(tokens) == size, f"block {len(digests)} is not full"
            parent = digests[-1] if digests else self._root
            digests.append(hashlib.sha256(b"\x01" + parent + tokens.tobytes()).digest())
        return digests[block]

    def fork(self, token_ids: list[int], num_blocks: int) -> TokenChain:
        """The chain of a sequence whose first `num_blocks` blocks are the same."""
        child = TokenChain(token_ids, self._block_size, self._root)
        child._digests = self._digests[:num_blocks]
        return child


class PrefixIndex:
    """Digest -> block of one KV group; a block stands under one digest at most."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[int]:
        """The indexed blocks' ids."""
        return iter(self._digests)

    def get(self, digest: bytes) -> int | None:
        """The block with this content, or None."""
        return self._blocks.get(digest)

    def insert(self, digest: bytes, block: int) -> bool:
        """Index `block`, unless another block has this content already; True if it was."""
        if digest in self._blocks:
            return False
        assert block not in self._digests, f"block {block} is indexed under another digest"
        self._blocks[digest] = block
        self._digests[block] = digest
        return True

    def remove(self, block: int) -> None:
        """Forget an indexed block."""
        del self._blocks[self._digests.pop(block)]
