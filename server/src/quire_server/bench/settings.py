"""`LoadSettings`: everything that decides what a run sends. Written into its result, so it holds no key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quire.errors import ConfigError
from quire_server.bench.workload import Lengths, Workload

Endpoint = Literal["completions", "chat"]

_INPUT, _OUTPUT = Lengths(128, 128), Lengths(64, 64)
_IDS = Lengths(32, 255)  # every vocabulary has them


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """What to send, when, and for how long.

    Attributes:
        model: served name; "" for the first that `/v1/models` lists.
        endpoint: "completions" or "chat".
        text: send words instead of token ids; chats always do.
        input_len: prompt length in tokens (in words for texts), without the shared prefix.
        output_len: tokens to generate per request.
        prefix_length: length of the shared prefix; 0 for none.
        num_prefixes: how many different prefixes.
        token_ids: range of ids that prompts are made of.
        request_rate: requests per second of a Poisson process; None for a closed loop.
        concurrency: most requests in flight.
        num_requests: requests to send; None for as many as begin within `duration`.
        duration: seconds in which requests begin; None for no limit.
        warmup: requests before the run that count nowhere.
        ignore_eos: have exactly `output_len` tokens generated (an extra field of vLLM's and Quire's).
        return_token_ids: have ids sent with each chunk and count them (an extra field as well).
        temperature: sampling temperature.
        timeout: seconds after which a request has failed.
        seed: of prompts, lengths and arrivals.
    """

    model: str = ""
    endpoint: Endpoint = "completions"
    text: bool = False
    input_len: Lengths = _INPUT
    output_len: Lengths = _OUTPUT
    prefix_length: int = 0
    num_prefixes: int = 1
    token_ids: Lengths = _IDS
    request_rate: float | None = None
    concurrency: int = 8
    num_requests: int | None = 100
    duration: float | None = None
    warmup: int = 1
    ignore_eos: bool = True
    return_token_ids: bool = False
    temperature: float = 0.0
    timeout: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_requests is None and self.duration is None:
            raise ConfigError("The run has no end: give --num-requests or --duration.")
        for name in ("request_rate", "duration", "timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0.")
        for name, least in (("concurrency", 1), ("num_prefixes", 1), ("prefix_length", 0), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        if self.num_requests is not None and self.num_requests < 1:
            raise ConfigError(f"num_requests is {self.num_requests}; it must be at least 1.")

    @property
    def workload(self) -> Workload:
        """The requests."""
        return Workload(
            form="text" if self.text or self.endpoint == "chat" else "ids",
            input_len=self.input_len,
            output_len=self.output_len,
            prefix_length=self.prefix_length,
            num_prefixes=self.num_prefixes,
            token_ids=self.token_ids,
            seed=self.seed,
        )
