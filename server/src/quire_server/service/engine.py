"""The engine as the server sees it: the part of `quire.AsyncLLM` that it relies on. Tests use a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from quire import EngineInfo, EngineStats, RequestOutput, SamplingParams

Health = Literal["loading", "ready", "stalled", "dead"]
"""Whether the engine can take work. `stalled`: no sign of life for `stall_timeout` seconds."""


class Engine(Protocol):
    """An engine to which requests are submitted from an event loop."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def health(self) -> Health: ...

    @property
    def stats(self) -> EngineStats: ...

    @property
    def compile_seconds(self) -> float: ...

    def get_default_sampling_params(self) -> SamplingParams: ...

    def get_tokenizer(self) -> Any: ...

    async def submit(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        deltas: bool = False,
    ) -> AsyncIterator[RequestOutput]: ...

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    async def detokenize(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str: ...
