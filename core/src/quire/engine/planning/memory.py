"""The byte budget: what weights, activations, graphs and KV take, and how many blocks that makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quire.engine.units import size
from quire.errors import CapacityError
from quire.kv import longest_sequence, window_quota
from quire.runtime.profile import MemoryProfile

# On a CPU the KV cache shares the machine with everybody else: a share of its memory, as on a GPU that
# the engine has to itself, would starve them. vLLM's CPU build starts from the same figure.
_CPU_DEFAULT_KV = 4 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """How a device's memory is divided. All figures but the counts are bytes.

    Attributes:
        total: of the device.
        weights, activations, graphs, kv: what each part takes.
        left: of what is free now, after all four.
        num_blocks: KV blocks per group, the null block included.
        tokens: tokens that fit into the KV cache.
        max_model_len: longest sequence; shortened to fit when the user asked for none.
        concurrency: sequences of that length that fit at a time.
    """

    total: int
    weights: int
    activations: int
    graphs: int
    kv: int
    left: int
    num_blocks: int
    tokens: int
    max_model_len: int
    concurrency: float

    def with_graphs(self, nbytes: int) -> MemoryBudget:
        """The same, with what captured steps were found to hold in place of what was set aside for them."""
        return replace(self, graphs=nbytes, left=self.left + self.graphs - nbytes)


def divide(
    profile: MemoryProfile,
    *,
    device: str,
    utilization: float,
    kv_bytes: int | None,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    windows: Sequence[int | None],
    asked_max_model_len: bool,
) -> MemoryBudget:
    """Size the KV cache.

    Args:
        profile: what was measured.
        device: device type.
        utilization: share of the device's memory the engine may take.
        kv_bytes: size the user set, or None to take what is left of the share.
        block_size: tokens per block.
        max_model_len: longest sequence wanted.
        max_num_seqs: most sequences at a time.
        max_num_batched_tokens: most tokens in a step.
        windows: per KV group its sliding window in tokens; None where all tokens are kept.
        asked_max_model_len: the user named `max_model_len`, so it must fit as it is.

    Raises:
        CapacityError: the wanted length does not fit; names the longest that does.
    """
    # Activations come and go inside the free memory; weights are in it no longer.
    taken = profile.device_total - profile.device_free
    available = min(
        int(profile.device_total * utilization) - taken if device != "cpu" else profile.device_free,
        profile.device_free,
    )
    room = available - profile.activations - profile.graphs
    if kv_bytes is None:
        budget = room
        if device == "cpu":
            # Twice what all sequences at full length could hold: as much again for the prefix cache.
            each = _blocks_at_a_time(max_model_len, max_num_batched_tokens, block_size, windows)
            useful = 2 * max_num_seqs * each * profile.kv_bytes_per_block
            budget = min(int(room * utilization), _CPU_DEFAULT_KV, useful)
    else:
        budget = kv_bytes
    blocks = max(budget, 0) // profile.kv_bytes_per_block  # the null block is one of them
    usable = max(blocks - 1, 0)
    tokens = usable * block_size
    bounds = [longest_sequence(usable, window, block_size) for window in windows]
    longest = min((bound for bound in bounds if bound is not None), default=max_model_len)
    if longest < max_model_len:
        if asked_max_model_len or longest < block_size:
            needed = 1 + max(_blocks_needed(max_model_len, block_size, window) for window in windows)
            raise CapacityError(
                _too_small(
                    max_model_len, longest, needed * profile.kv_bytes_per_block, budget, profile, kv_bytes
                )
            )
        max_model_len = longest
    kv = blocks * profile.kv_bytes_per_block
    if kv > room:
        raise CapacityError(
            f"kv_cache_memory_bytes {kv_bytes} ({size(kv)}) is more than the {size(max(room, 0))} "
            f"that are free beside weights, activations and graphs. Set at most {max(room, 0)}."
        )
    return MemoryBudget(
        total=profile.device_total,
        weights=profile.weights,
        activations=profile.activations,
        graphs=profile.graphs,
        kv=kv,
        left=profile.device_free - profile.activations - profile.graphs - kv,
        num_blocks=blocks,
        tokens=tokens,
        max_model_len=max_model_len,
        concurrency=usable / _blocks_at_a_time(max_model_len, max_num_batched_tokens, block_size, windows),
    )


def _blocks_at_a_time(length: int, step_tokens: int, block_size: int, windows: Sequence[int | None]) -> int:
    """Blocks per group that a sequence of `length` tokens holds at most, in the group where that is most."""
    whole = -(-length // block_size)
    return max(
        whole if window is None else min(whole, window_quota(window, step_tokens, block_size))
        for window in windows
    )


def _blocks_needed(length: int, block_size: int, window: int | None) -> int:
    """Fewest blocks that let a sequence of `length` tokens run, if need be a token a step."""
    whole = -(-length // block_size)
    return whole if window is None else min(whole, window_quota(window, 1, block_size))


def _too_small(
    wanted: int, tokens: int, needed: int, budget: int, profile: MemoryProfile, kv_bytes: int | None
) -> str:
    way_out = "kv_cache_memory_bytes" if kv_bytes is not None else "gpu_memory_utilization"
    graphs = f", graphs {size(profile.graphs)}" if profile.graphs else ""
    works = f"The largest max_model_len that works is {tokens}" if tokens else "No max_model_len works"
    return (
        f"max_model_len {wanted} needs {size(needed)} of KV cache, and {size(max(budget, 0))} are there "
        f"(weights {size(profile.weights)}, activations {size(profile.activations)}{graphs}). "
        f"{works}; or raise {way_out}."
    )
