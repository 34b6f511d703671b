"""The engine's configuration: one model, from defaults, a YAML file, the environment and keywords.

Precedence: defaults < YAML file < environment (`QUIRE_*`) < keyword or command line. Mappings merge
key by key; everything else is replaced. Names are vLLM's where vLLM has the thing.

Says what each setting is and may be; the sources are in `_config_sources` and `_config_file`, the types in
`_config_types`. Never imports torch, and never asks the machine: "auto" is resolved by the engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from quire._config_errors import explain
from quire._config_file import read_file
from quire._config_grammars import read_grammars
from quire._config_groups import PluginsConfig, StructuredOutputsConfig
from quire._config_sources import Layer, origins_of, read_environment, take_section
from quire._config_speculation import Speculation, mapping_from_text, read_speculation
from quire._config_types import NOT_BOOL, Bytes, Count, Dtype, Name, Threads, not_built, shapes_of
from quire.errors import ConfigError

__all__ = ["EngineConfig", "PluginsConfig", "StructuredOutputsConfig"]

Section = type[BaseModel]

_LAYERS = "_layers"
_ONE_DEVICE = not_built("must be 1: engines over several devices are not built yet", 1)


class EngineConfig(BaseSettings):
    """Everything that can be set about an engine.

    `EngineConfig(model="tiny", max_num_seqs=8)` reads the environment too; `load` adds a YAML file.

    Raises:
        ConfigError: a setting is unknown, has a wrong value, or names what is not built yet. The
            message has a line per problem: where it was written, its name, what it must be, what it is.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Name = Field(
        default="",
        description="Local directory, bundled name or Hugging Face hub id; the first that exists wins. "
        "Empty only where no model is loaded, as in `quire doctor` without one.",
    )
    tokenizer: Name | None = Field(
        default=None, description="Name or path of the tokenizer; null for the model's."
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit on the hub, of the model and its tokenizer."
    )
    dtype: Dtype = Field(
        default="auto",
        description="Type of weights and activations. `auto` is the checkpoint's; `half` is float16 and "
        "`float` is float32.",
    )
    max_model_len: Count | None = Field(
        default=None, description="Longest prompt plus output, in tokens; null takes it from the model."
    )
    gpu_memory_utilization: Annotated[float, NOT_BOOL] = Field(
        default=0.9,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the device's memory that weights, activations and KV cache may take together.",
    )
    block_size: Count = Field(default=16, le=1024, description="Tokens in a block of the KV cache.")
    max_num_seqs: Count = Field(
        default=64,
        description="Most requests in one step. Slot buffers grow with it times `max_model_len`, which is "
        "why it starts at 64; raise it where the device has room.",
    )
    max_num_batched_tokens: Count = Field(
        default=2048, description="Most tokens computed in one step, over all requests."
    )
    enable_prefix_caching: bool = Field(
        default=True, description="Keep the KV cache of finished prefixes and reuse it for equal ones."
    )
    enable_chunked_prefill: bool = Field(
        default=True,
        description="Spread long prompts over several steps. Without it, `max_num_batched_tokens` must reach "
        "`max_model_len`.",
    )
    enforce_eager: bool = Field(
        default=False,
        description="Never capture CUDA graphs. Without them start-up is shorter and decoding slower.",
    )
    quantization: str | None = Field(
        default=None,
        description="Quantization plugin to use; null takes what the checkpoint names. vLLM's names of the "
        "same formats (`awq_marlin`, `gptq_marlin`) are taken too.",
    )
    tensor_parallel_size: Annotated[Count, _ONE_DEVICE] = Field(
        default=1, description="Devices that share each layer. Only 1 is built."
    )
    pipeline_parallel_size: Annotated[Count, _ONE_DEVICE] = Field(
        default=1, description="Devices that share the stack of layers. Only 1 is built."
    )
    speculative_config: Annotated[dict[str, Any] | None, BeforeValidator(mapping_from_text)] = Field(
        default=None,
        description="Speculative decoding: `method` (a speculator plugin such as `ngram`) or `model` (a "
        "draft model), `num_speculative_tokens`, and the speculator's own options. A mapping or its JSON.",
    )
    speculative_model: Name | None = Field(
        default=None, description="The older way: `model` of `speculative_config`, or `[ngram]`."
    )
    num_speculative_tokens: Count | None = Field(
        default=None, description="The older way: most tokens proposed ahead of a request."
    )
    ngram_prompt_lookup_max: Count | None = Field(
        default=None, description="The older way: `prompt_lookup_max` of `speculative_config`."
    )
    ngram_prompt_lookup_min: Count | None = Field(
        default=None, description="The older way: `prompt_lookup_min` of `speculative_config`."
    )
    seed: Annotated[int, NOT_BOOL] = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Seed from which requests without one of their own draw theirs.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device to run on. `auto` is CUDA where there is one, else the CPU."
    )
    threads: Threads = Field(
        default="auto",
        description="Threads to compute with on the CPU. `auto` is `OMP_NUM_THREADS` where that is set, else "
        "one per physical core that the process may use, within its control group's limit.",
    )
    cpu_pinning: bool = Field(
        default=False, description="Bind each of these threads to a processor of its own (Linux)."
    )
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3"] = Field(
        default="auto",
        description="Type of the KV cache: `auto` is the compute type; `fp8` (e4m3, scaled by head and "
        "token) halves it, where an attention backend keeps it so.",
    )
    kv_cache_memory_bytes: Bytes | None = Field(
        default=None,
        description="Size of the KV cache, in bytes or as `2GiB`; null derives it from "
        "`gpu_memory_utilization` and a profile run.",
    )
    hf_overrides: dict[str, Any] = Field(
        default_factory=dict, description="Entries that replace those of the checkpoint's config.json."
    )
    max_logprobs: Annotated[int, NOT_BOOL] = Field(
        default=20, ge=0, description="Most log probabilities per token that a request may ask for."
    )
    generation_config: Name = Field(
        default="auto",
        min_length=1,
        description="Where default sampling parameters come from: `auto` is the model's "
        "generation_config.json, `vllm` none, anything else a directory that has one.",
    )
    trust_remote_code: Annotated[
        bool, not_built("must be false: Quire never runs code from a model repository", False)
    ] = Field(default=False, description="Always false: Quire never runs code from a model repository.")
    load_format: Literal["auto", "safetensors", "dummy"] = Field(
        default="auto",
        description="`auto` and `safetensors` read the checkpoint; `dummy` draws random weights on "
        "the device and needs no files of them.",
    )
    attention_backend: str | None = Field(
        default=None, description="Attention backend (`name` or `distribution:name`); null chooses."
    )
    kernels: str | None = Field(
        default=None, description="Kernels plugin (`name` or `distribution:name`); null chooses."
    )
    sampler: str | None = Field(
        default=None, description="Sampler plugin (`name` or `distribution:name`); null chooses."
    )
    logits_processors: list[str] = Field(
        default_factory=list,
        description="Logits processors (`name` or `distribution:name`) to activate, in the order in which "
        "they run. Requests give them their arguments in `extra_args`.",
    )
    tool_call_parser: str | None = Field(
        default=None,
        description="Tool parser (`name` or `distribution:name`). Left out, the chat template chooses; "
        "`none` does without.",
    )
    reasoning_parser: str | None = Field(
        default=None,
        description="Reasoning parser (`name` or `distribution:name`). Left out, the model's chat template "
        "chooses; `none` does without.",
    )
    enable_auto_tool_choice: bool = Field(
        default=True,
        description="Let the model decide whether to call the tools of a request that leaves it the choice. "
        "False refuses such requests.",
    )
    scheduling_policy: Literal["fcfs", "priority"] = Field(
        default="fcfs",
        description="Who runs next: first come first served, or the lowest `priority` value.",
    )
    deterministic: bool = Field(
        default=False,
        description="A request's logits are the same bit for bit whatever runs beside it, and however its "
        "prompt is split or cached. Plugins that cannot hold this are not chosen.",
    )
    structured_outputs: StructuredOutputsConfig = Field(
        default_factory=StructuredOutputsConfig,
        description="Which grammar backends compile the forms that requests ask for, and what that may take.",
    )
    structured_outputs_config: Annotated[dict[str, Any] | None, BeforeValidator(mapping_from_text)] = Field(
        default=None,
        description="vLLM's way to name the grammar backend: a mapping with `backend`, or its JSON.",
    )
    guided_decoding_backend: str | None = Field(
        default=None, description="vLLM's older way: `backend` of `structured_outputs`."
    )
    plugins: PluginsConfig = Field(
        default_factory=PluginsConfig, description="Allowed plugins, options of plugins, routes to mount."
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _sections: dict[str, BaseModel] = PrivateAttr(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        layers = values.pop(_LAYERS, None)
        if layers is None:
            layers = [
                Layer.of_keywords(values, "keyword"),
                read_environment(os.environ, shapes_of(type(self))),
            ]
        try:
            super().__init__(**{_LAYERS: layers})
        except ValidationError as error:
            raise explain(error, type(self), layers) from None
        self._origins = origins_of(layers, shapes_of(type(self)))

    @classmethod
    def load(
        cls,
        file: Path | str | None = None,
        *,
        sections: Mapping[str, Section] | None = None,
        environ: Mapping[str, str] | None = None,
        origin: str = "keyword",
        **overrides: Any,
    ) -> Self:
        """The configuration from a YAML file, the environment and keywords.

        Args:
            file: YAML file, or None.
            sections: further top-level keys, each with the model of its content. A plugin that adds a
                section passes its own; `config.sections` then holds the validated content.
            environ: environment variables, `os.environ` if None.
            origin: what `origins()` calls the overrides, "keyword" or "command line".
            **overrides: settings that win over file and environment.

        Raises:
            ConfigError: see the class; for a file each line begins with "file:line:".
        """
        sections = dict(sections or {})
        layers = [
            _keywords(overrides, origin),
            read_environment(os.environ if environ is None else environ, shapes_of(cls, sections)),
        ]
        if file is not None:
            layers.append(read_file(Path(file)))
        content = {name: take_section(layers, name) for name in sections}
        problems: list[str] = []
        config = None
        try:
            config = cls(**{_LAYERS: layers})
        except ConfigError as error:
            problems.append(str(error))
        validated: dict[str, BaseModel] = {}
        for name, model in sections.items():
            own, values = content[name]
            try:
                validated[name] = model.model_validate(values)
            except ValidationError as error:
                problems.append(str(explain(error, model, own, prefix=(name,))))
        if problems or config is None:
            raise ConfigError("\n".join(problems))
        config._sections = validated
        for name, model in sections.items():
            config._origins |= origins_of(content[name][0], [(name, key) for key in model.model_fields])
        return config

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Replaces pydantic-settings' sources by the layers, which know their origins."""
        assert isinstance(init_settings, InitSettingsSource)
        return tuple(_LayerSource(settings_cls, layer) for layer in init_settings.init_kwargs.pop(_LAYERS))

    @model_validator(mode="after")
    def _whole_prompts_fit(self) -> Self:
        if (
            not self.enable_chunked_prefill
            and self.max_model_len is not None
            and self.max_num_batched_tokens < self.max_model_len
        ):
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_model_len "
                f"({self.max_model_len}) when enable_chunked_prefill is false: prompts must fit into one step"
            )
        return self

    @property
    def speculation(self) -> Speculation | None:
        """Speculative decoding as the settings ask for it, in whichever way; None if they do not."""
        return read_speculation(
            self.speculative_config,
            self.speculative_model,
            self.num_speculative_tokens,
            self.ngram_prompt_lookup_max,
            self.ngram_prompt_lookup_min,
        )

    @property
    def grammars(self) -> StructuredOutputsConfig:
        """`structured_outputs`, with the backend in whichever way it is named."""
        return read_grammars(
            self.structured_outputs, self.structured_outputs_config, self.guided_decoding_backend
        )

    @model_validator(mode="after")
    def _ways_agree(self) -> Self:
        _ = self.speculation, self.grammars
        return self

    def __eq__(self, other: object) -> bool:
        """Equal settings are equal, wherever they came from."""
        if not isinstance(other, EngineConfig):
            return NotImplemented
        return self.model_dump() == other.model_dump() and self._sections == other._sections

    @property
    def sections(self) -> dict[str, BaseModel]:
        """Validated content of the sections that `load` was told of."""
        return dict(self._sections)

    def origins(self) -> dict[str, str]:
        """Where each setting's value came from.

        Keys are setting names, "plugins.allow" and the like below `plugins` and sections; values are
        "default", "file:line", the environment variable's name, or "keyword" ("command line" in the CLI).
        """
        return dict(self._origins)

    @classmethod
    def json_schema(cls, sections: Mapping[str, Section] | None = None) -> dict[str, Any]:
        """JSON Schema of the configuration file, sections included."""
        schema = cls.model_json_schema()
        for name, model in (sections or {}).items():
            part = model.model_json_schema(ref_template=f"#/properties/{name}/$defs/{{model}}")
            schema["properties"][name] = part
        return schema


class _LayerSource(PydanticBaseSettingsSource):
    """A layer as a source of pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._layer.values)


def _keywords(values: Mapping[str, Any], origin: str) -> Layer:
    """A call's keywords; models given whole count as the fields that were set in them."""
    return Layer.of_keywords(
        {
            name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            for name, value in values.items()
        },
        origin,
    )
