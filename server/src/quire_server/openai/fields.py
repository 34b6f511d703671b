"""What the bodies of OpenAI's endpoints share: sampling, streaming and labels, and what is refused by name.

Scalars are typed strictly. Containers come as they are and are checked by whoever reads them, which ends
at the first fault: a list of a million wrong entries would make a million validation errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, WithJsonSchema

from quire import EngineInfo, SamplingParams
from quire_server.errors import bad_request
from quire_server.http.fields import BoundedModel, RequestModel
from quire_server.openai.structured import structured_outputs
from quire_server.service.sampling import sampling_params
from quire_server.service.structured import form_names

_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_STRINGS = {"type": "array", "items": {"type": "string"}}
_NULL = {"type": "null"}

TokenIds = Annotated[Any, WithJsonSchema({"anyOf": [_INTEGERS, _NULL]})]
Strings = Annotated[Any, WithJsonSchema({"anyOf": [_STRINGS, _NULL]})]
StringOrStrings = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, _STRINGS, _NULL]})]
Schema = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}, _NULL]})]
Object = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "object"}, _NULL]})]

_SAMPLING = (
    *("n", "best_of", "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"),
    *("repetition_penalty", "seed", "stop", "stop_token_ids", "bad_words", "allowed_token_ids"),
    *("ignore_eos", "min_tokens", "skip_special_tokens", "include_stop_str_in_output"),
    *("use_beam_search", "length_penalty", "early_stopping"),
)
"""Fields that are sampling parameters by the same name."""

_FORMS = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag")
"""Fields that say what the answer must be, in vLLM's older names."""

_NEUTRAL: Mapping[str, Any] = {
    "spaces_between_special_tokens": True,
    "store": False,
}
"""Fields that are served for one value only, the one that asks for nothing."""

TEMPLATE_REASON = "templates come from the model's files alone."
"""Why a request cannot bring a chat template: it is a program."""

_MAX_BIASES, _MAX_KEY = 65_536, 20


class StreamOptions(BoundedModel):
    """OpenAI's `stream_options`, and vLLM's `continuous_usage_stats`."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GenerationFields(RequestModel):
    """Fields of completions and of chats alike; null is "not given" for each."""

    model_config = ConfigDict(strict=True)

    refused: ClassVar[Mapping[str, str]] = {
        "guided_decoding_backend": "the server's configuration names the backend; leave it out.",
        "logits_processors": "code does not travel in requests; use logit_bias or bad_words.",
        "truncate_prompt_tokens": "prompts are never cut; shorten it before sending.",
        "prompt_embeds": "prompts are text or token ids.",
        "return_tokens_as_token_ids": "ask for return_token_ids, which gives the ids beside the text.",
        "kv_transfer_params": "KV transfer is not built yet.",
        "service_tier": "there is one tier only; leave it out, or ask for 'auto'.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "logits_processors": ([],),
        "return_tokens_as_token_ids": (False,),
        "service_tier": ("auto", "default"),
    }

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: StringOrStrings = None
    logit_bias: Object = None
    max_tokens: int | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: TokenIds = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: TokenIds = None
    bad_words: Strings = None
    vllm_xargs: Object = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None

    response_format: Object = None
    structured_outputs: Object = None
    guided_json: Schema = None
    guided_regex: str | None = None
    guided_choice: Strings = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structural_tag: Schema = None

    user: str | None = None
    metadata: Object = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def check(self, info: EngineInfo) -> None:
        """Refuse what is well-formed and cannot be served.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        for name, neutral in _NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value != neutral:
                raise bad_request(
                    f"{name} is {value!r}, which is not built: leave it out.", name, "unsupported_parameter"
                )
        if self.metadata is not None and not isinstance(self.metadata, dict):
            raise bad_request("metadata must be an object of labels.", "metadata")
        if self.cache_salt == "":
            raise bad_request("cache_salt is empty: it must have at least one character.", "cache_salt")
        self._check_stream_options()
        if self.prompt_logprobs is not None and self.stream:
            raise bad_request(
                "prompt_logprobs are given with whole answers only: leave it out, or leave out stream.",
                "prompt_logprobs",
            )
        check_logprobs("prompt_logprobs", self.prompt_logprobs, info)

    def form_names(self, otherwise: str = "structured_outputs") -> dict[str, str]:
        """What the engine calls a form of the answer -> the one field that asks for it, or another."""
        fields = ("response_format", "structured_outputs", *_FORMS)
        given = [name for name in fields if getattr(self, name) is not None]
        if len(given) > 1:  # refused as they are read, by their own names
            return {}
        return form_names(given[0] if given else otherwise)

    def params(self, defaults: SamplingParams, info: EngineInfo, **own: Any) -> SamplingParams:
        """Sampling parameters: what the body gives, over the model's defaults.

        Args:
            defaults: the model's.
            info: its vocabulary's width.
            own: what each endpoint spells in its own way (`max_tokens`, `logprobs`).

        Raises:
            ApiError: 400, with the field in `param`.
        """
        given = {name: getattr(self, name) for name in _SAMPLING}
        given["structured_outputs"] = structured_outputs(
            self.response_format,
            self.structured_outputs,
            self.guided_whitespace_pattern,
            {name: getattr(self, name) for name in _FORMS},
        )
        if self.use_beam_search and given["structured_outputs"] is not None:
            name = self.form_names()["structured_outputs"]
            raise bad_request(
                f"{name} goes not with use_beam_search: beams follow no grammar. Leave one of them out.", name
            )
        params = sampling_params(
            defaults,
            **given,
            logit_bias=token_biases(self.logit_bias),
            extra_args=self.vllm_xargs,
            **own,
        )
        # Here, because the engine sees them only after a chat was rendered or a first prompt submitted.
        try:
            params.check_vocabulary(info.vocab_size)
        except ValueError as error:
            raise bad_request(str(error), getattr(error, "field", None)) from error
        return params

    def _check_stream_options(self) -> None:
        options = self.stream_options
        if options is None:
            return
        if not self.stream:
            raise bad_request("stream_options go with stream: true only.", "stream_options")
        if options.include_obfuscation:
            raise bad_request(
                "include_obfuscation is not built: leave it out.",
                "stream_options.include_obfuscation",
                "unsupported_parameter",
            )
        for name in options.model_extra or {}:
            known = ", ".join(StreamOptions.model_fields)
            raise bad_request(
                f"Unknown field {name[:64]!r} in stream_options. Known are: {known}.", "stream_options"
            )


def check_logprobs(name: str, value: int | None, info: EngineInfo) -> None:
    """Refuse more log probabilities than the engine gives; -1 asks for the whole vocabulary.

    Raises:
        ApiError: 400.
    """
    if value is None:
        return
    asked = info.vocab_size if value == -1 else value
    if not 0 <= asked <= info.max_logprobs:
        raise bad_request(
            f"{name} is {value}, out of range: 0 to {info.max_logprobs} is allowed, "
            "the engine's max_logprobs.",
            name,
        )


def token_biases(value: Any) -> dict[int, Any] | None:
    """`logit_bias` with the token ids as integers: JSON knows keys that are strings only.

    Raises:
        ApiError: 400, it is no object of token ids.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > _MAX_BIASES:
        raise bad_request(
            f"logit_bias must be an object of at most {_MAX_BIASES} token ids with their biases.",
            "logit_bias",
        )
    biases: dict[int, Any] = {}
    for key, bias in value.items():
        if not (len(key) <= _MAX_KEY and key.isascii() and key.removeprefix("-").isdigit()):
            raise bad_request(
                f"logit_bias has the key {key[:_MAX_KEY]!r}, which is no token id.", "logit_bias"
            )
        biases[int(key)] = bias
    return biases
