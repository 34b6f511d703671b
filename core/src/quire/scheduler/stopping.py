"""When a sequence ends, decided on token ids. Stop *strings* are the detokenizer's business."""

from __future__ import annotations

from dataclasses import dataclass

from quire.outputs import FinishReason
from quire.scheduler.state import Sequence

__all__ = ["Stop", "append_tokens"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a sequence ended.

    Attributes:
        reason: the finish reason.
        token_id: the id out of `stop_token_ids` that ended it; None for EOS and "length".
    """

    reason: FinishReason
    token_id: int | None = None


def append_tokens(sequence: Sequence, token_ids: list[int]) -> tuple[int, Stop | None]:
    """Append sampled ids up to and including the one that ends the sequence.

    EOS and stop ids count only from output token number `min_tokens` on, "length" always does. Where the
    output has a form they count always: before, none came but where the form left nothing else.

    Returns:
        How many were appended (what was sampled past the end is dropped), and the end if it came.
    """
    state = sequence.state
    request = state.request
    ids = sequence.token_ids
    least = 0 if request.grammar is not None else request.params.min_tokens
    for count, token_id in enumerate(token_ids, start=1):
        ids.append(token_id)
        ends = token_id in state.eos_ids
        if (ends or token_id in state.stop_ids) and sequence.num_output >= least:
            return count, Stop("stop", None if ends else token_id)
        if len(ids) >= state.max_len:
            return count, Stop("length")
    return len(token_ids), None
