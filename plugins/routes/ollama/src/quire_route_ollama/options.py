"""`options` of a request: Ollama's sampling parameters under the engine's names.

Parameters that would change the output and cannot be served are refused. Those about how a model is
loaded come too late and are named in the response header, as unknown ones are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import StrictFloat, StrictInt
from starlette.requests import Request

from quire_server.errors import ApiError, bad_request
from quire_server.http.fields import RequestModel, examine

NAMES = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    **{
        name: f"options.{name}"
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "seed",
            "stop",
            "presence_penalty",
            "frequency_penalty",
        )
    },
}
"""The engine's name of a parameter -> where it stands in a request."""

_UNLIMITED = (-1, -2)  # "until the end", "until the context is full"
_SAMPLER = "this sampler is not built; temperature, top_k, top_p and min_p are."


class Options(RequestModel):
    """Names and meanings as in Ollama's reference; defaults are the model's own."""

    num_predict: StrictInt | None = None
    num_ctx: StrictInt | None = None
    temperature: StrictFloat | None = None
    top_k: StrictInt | None = None
    top_p: StrictFloat | None = None
    min_p: StrictFloat | None = None
    seed: StrictInt | None = None
    stop: str | list[str] | None = None
    repeat_penalty: StrictFloat | None = None
    presence_penalty: StrictFloat | None = None
    frequency_penalty: StrictFloat | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "mirostat": _SAMPLER,
        "mirostat_eta": _SAMPLER,
        "mirostat_tau": _SAMPLER,
        "penalize_newline": "newlines are penalised as any token is.",
        "repeat_last_n": "penalties look at the whole text.",
        "tfs_z": _SAMPLER,
        "typical_p": _SAMPLER,
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mirostat": (0,),
        "penalize_newline": (True,),
        "repeat_last_n": (-1,),
        "tfs_z": (1,),
        "typical_p": (1,),
    }

    def sampling(self, max_model_len: int) -> dict[str, Any]:
        """Sampling parameters under the engine's names; None for what was not given.

        Args:
            max_model_len: the model's context, in tokens.

        Raises:
            ApiError: 400, `num_ctx` is more than the model's context.
        """
        if self.num_ctx is not None and not 0 < self.num_ctx <= max_model_len:
            raise bad_request(
                f"options.num_ctx is {str(self.num_ctx)[:30]}: the model's context is "
                f"{max_model_len} tokens. Leave it out, or send at most that.",
                "options.num_ctx",
            )
        return {
            "max_tokens": None if self.num_predict in _UNLIMITED else self.num_predict,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": self.stop,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }


def examine_all(request: Request, body: RequestModel, options: Options | None) -> None:
    """`examine` for a body and the options in it.

    Raises:
        ApiError: 400, with the field in `param`.
    """
    examine(request, body)
    if options is None:
        return
    outer = getattr(request.state, "ignored_fields", [])
    request.state.ignored_fields = []
    try:
        examine(request, options)
    except ApiError as error:
        name = f"options.{error.param}"
        raise bad_request(f"{name}: {error.message}", name, error.code) from error
    inner = [f"options.{name}" for name in request.state.ignored_fields]
    request.state.ignored_fields = [*outer, *inner]
