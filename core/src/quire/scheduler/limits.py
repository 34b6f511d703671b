"""Admission: which requests can never run, and how long the others may become.

Decided from the request and the configuration alone, so the answer does not depend on who else is there.
"""

from __future__ import annotations

from quire.errors import InvalidRequestError
from quire.kv import longest_sequence
from quire.request import EngineRequest
from quire.scheduler.config import SchedulerConfig

__all__ = ["check_admission", "max_length"]

_MAX_TOKEN_ID = 2**31 - 1


def pool_tokens(config: SchedulerConfig) -> int:
    """Tokens that one sequence could have KV for in its course, alone in the smallest pool.

    A pool that holds its group's window bounds nothing: what leaves the window makes room.
    """
    lengths = [longest_sequence(usable, window, config.block_size) for usable, window in config.groups]
    return min((length for length in lengths if length is not None), default=config.max_model_len)


def max_length(request: EngineRequest, config: SchedulerConfig) -> int:
    """Length in tokens at which a sequence of `request` ends with "length".

    The last sampled token needs no KV, so a sequence may outgrow the pool by that one. Because the
    bound is fixed here, a sequence ends where it would end alone, whatever its neighbours hold.
    """
    assert request.params.max_tokens is not None
    asked = len(request.prompt_ids) + request.params.max_tokens
    return min(asked, config.max_model_len, pool_tokens(config) + 1)


def check_admission(request: EngineRequest, config: SchedulerConfig) -> None:
    """Refuse what can never run.

    Raises:
        InvalidRequestError: naming the value and the limit it exceeds.
    """
    length = len(request.prompt_ids)
    if length == 0:
        raise InvalidRequestError("The prompt has 0 tokens; at least 1 is needed.", field="prompt")
    low, high = min(request.prompt_ids), max(request.prompt_ids)
    if low < 0 or high > _MAX_TOKEN_ID:
        bad = low if low < 0 else high
        raise InvalidRequestError(f"Prompt token id {bad} is outside 0 .. {_MAX_TOKEN_ID}.", field="prompt")
    if request.params.max_tokens is None or request.params.max_tokens < 1:
        raise InvalidRequestError(
            f"max_tokens={request.params.max_tokens} must be at least 1.", field="max_tokens"
        )
    if length + 1 > config.max_model_len:
        raise InvalidRequestError(
            f"The prompt has {length} tokens, and with one token of output that exceeds "
            f"max_model_len={config.max_model_len}. Shorten the prompt to {config.max_model_len - 1} tokens.",
            field="prompt",
        )
    if length + 1 > pool_tokens(config):
        needed, usable = -(-(length + 1) // config.block_size), pool_tokens(config) // config.block_size
        raise InvalidRequestError(
            f"The prompt has {length} tokens and with one token of output needs {needed} KV blocks of "
            f"{config.block_size} tokens, but the pool has {usable}. Shorten the prompt to "
            f"{pool_tokens(config) - 1} tokens, or give the engine more KV memory.",
            field="prompt",
        )
    if not config.enable_chunked_prefill and length > config.max_num_batched_tokens:
        raise InvalidRequestError(
            f"The prompt has {length} tokens, more than "
            f"max_num_batched_tokens={config.max_num_batched_tokens}, and chunked prefill is off. "
            "Shorten the prompt, or enable chunked prefill.",
            field="prompt",
        )
    at_once = (min(config.num_blocks) - 1) * config.block_size
    if not config.enable_chunked_prefill and length > at_once:
        raise InvalidRequestError(
            f"The prompt has {length} tokens, more than the {at_once} that the smallest KV pool holds at a "
            "time, and chunked prefill is off. Shorten the prompt, or enable chunked prefill.",
            field="prompt",
        )
