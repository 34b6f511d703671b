"""Running out of memory: what counts as it, whoever says so, and what a user can change.

Knows exceptions and settings. Must never know devices or models.
"""

from __future__ import annotations

import torch

# PyTorch has an exception of its own for its caching allocator; of the driver, of cuBLAS and of the host's
# allocator one hears by a RuntimeError with these words.
_SAID = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was missing, also if the error came while another one of it was handled."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen) for words in _SAID):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def step_too_large(error: BaseException, max_num_batched_tokens: int) -> str:
    """What the request is told that did not fit even alone."""
    return (
        "out of memory in a step that computed this request alone. Lower max_num_batched_tokens "
        f"({max_num_batched_tokens} now), so that prompts are computed in smaller pieces, or "
        "gpu_memory_utilization or kv_cache_memory_bytes, so that more is left beside the KV cache. "
        f"({error})"
    )


def capture_too_large(error: BaseException) -> str:
    """Why there are no graphs."""
    return (
        "out of memory while they were captured, so decode steps run uncaptured. To have them lower "
        f"gpu_memory_utilization, max_num_seqs or kv_cache_memory_bytes; else set enforce_eager. ({error})"
    )


def profile_too_large(error: BaseException, max_num_batched_tokens: int, max_num_seqs: int) -> str:
    """Why an engine does not start whose weights fit."""
    return (
        "The weights fit, a step of full size beside them does not: lower max_num_batched_tokens "
        f"({max_num_batched_tokens} now) or max_num_seqs ({max_num_seqs} now). ({error})"
    )


def weights_too_large(error: BaseException) -> str:
    """Why an engine does not start."""
    return (
        "There is no memory for the weights. Use a device with more, free what others hold there, or load "
        f"them in a smaller dtype or a quantization; `quire plan` tells what they take. ({error})"
    )
