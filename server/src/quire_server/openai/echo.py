"""A prompt on its way back before its completion."""

from __future__ import annotations

from dataclasses import dataclass

from quire import RequestOutput
from quire_server.service import Service


@dataclass(frozen=True, slots=True)
class Echo:
    """What stands before a completion.

    Attributes:
        text: the prompt's; empty if it is not wanted back.
        first: text of its first token, for which there is no log probability; None where the log
            probabilities of the prompt are not wanted.
    """

    text: str = ""
    first: str | None = None


async def echo_of(
    service: Service, output: RequestOutput, *, logprobs: bool, skip_special_tokens: bool
) -> Echo:
    """The echo of a prompt: its text as it came, or that of its token ids.

    Args:
        service: knows the tokenizer.
        output: any output of the prompt.
        logprobs: whether log probabilities were asked for.
        skip_special_tokens: leave special tokens out of a text made from ids.
    """
    detokenize, ids = service.engine.detokenize, output.prompt_token_ids
    text = output.prompt if output.prompt is not None else await detokenize(ids, skip_special_tokens)
    return Echo(text, await detokenize(ids[:1], False) if logprobs else None)
