"""Paged KV: block pools, prefix index, per-request block tables. No torch, no scheduler."""

from quire.kv.block_pool import NULL_BLOCK, BlockPool, PoolUsage
from quire.kv.manager import Allocation, KVManager, Prefix
from quire.kv.prefix_index import PrefixIndex, TokenChain, root_digest
from quire.kv.window import first_block, longest_sequence, window_quota

__all__ = [
    "NULL_BLOCK",
    "Allocation",
    "BlockPool",
    "KVManager",
    "PoolUsage",
    "Prefix",
    "PrefixIndex",
    "TokenChain",
    "first_block",
    "longest_sequence",
    "root_digest",
    "window_quota",
]
