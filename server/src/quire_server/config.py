"""The `serve:` section of the configuration: everything that can be set about the server.

Says what each setting is and may be. Never imports FastAPI, torch or the engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ServeConfig(BaseModel):
    """Settings of `quire serve`; the engine's stand beside them in the same file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on; `0.0.0.0` for every interface.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    served_model_name: list[str] = Field(
        default_factory=list,
        description="Names under which clients ask for the model: the first is shown, the others are "
        "aliases. Empty for the model's own.",
    )
    api_keys: list[SecretStr] = Field(
        default_factory=list, description="Keys that clients must show. Empty, with no file: open to all."
    )
    api_key_file: Path | None = Field(
        default=None, description="File with further keys, one a line; `#` begins a comment."
    )
    metrics_public: bool = Field(default=False, description="Let `/metrics` be read without a key.")
    vllm_metrics: bool = Field(
        default=True, description="Give metrics under vLLM's names too, as existing dashboards scrape them."
    )
    strict: bool = Field(
        default=False,
        description="Refuse requests with fields that are not known, instead of naming them in a header.",
    )
    cors_origins: list[str] = Field(
        default_factory=list,
        description="Origins of web pages that may call the server; empty turns CORS off.",
    )
    ssl_certfile: Path | None = Field(default=None, description="TLS certificate chain, PEM.")
    ssl_keyfile: Path | None = Field(default=None, description="TLS private key, PEM.")
    ssl_ca_certs: Path | None = Field(
        default=None, description="Certificate authorities whose client certificates are asked for, PEM."
    )
    root_path: str = Field(default="", description="Path under which a proxy shows the server.")
    max_body_bytes: Count = Field(default=16 * 2**20, description="Largest request body.")
    max_header_bytes: Count = Field(default=64 * 2**10, description="Largest request line and headers.")
    read_timeout: Seconds = Field(
        default=30.0, description="Seconds that a client may take to send its headers, and again its body."
    )
    keep_alive: Seconds = Field(default=75.0, description="Seconds that an idle connection is kept.")
    max_queue: int = Field(
        default=512,
        ge=0,
        description="Most sequences that may wait for a seat in the engine; beyond it requests get 429.",
    )
    request_timeout: Seconds | None = Field(
        default=None, description="Seconds after which a request is ended; null for no deadline."
    )
    default_max_tokens: Count | None = Field(
        default=None,
        description="New tokens of a request that names no limit; null for what its API prescribes "
        "(16 for completions, all that fit for chats).",
    )
    max_tokens_cap: Count | None = Field(
        default=None, description="Most new tokens that a request may ask for; null for what fits."
    )
    max_n: Count = Field(default=64, description="Most completions per prompt.")
    max_prompts: Count = Field(default=256, description="Most prompts in one request.")
    drain_timeout: Seconds = Field(
        default=30.0, description="Seconds that running requests get to finish when the server is stopped."
    )
    stall_timeout: Seconds = Field(
        default=60.0, description="Seconds without a sign of life after which the engine counts as hung."
    )
    on_engine_death: Literal["exit", "restart"] = Field(
        default="exit", description="What the server does when its engine dies."
    )
    api_workers: int = Field(default=1, ge=1, le=64, description="Processes that speak HTTP for one engine.")
    playground: bool = Field(default=True, description="Serve the playground page at `/`.")
    log_format: Literal["text", "json"] = Field(default="text", description="Form of log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines that are written."
    )
    access_log: bool = Field(default=True, description="Log a line per request.")
    tracing_endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP endpoint that gets OpenTelemetry traces; needs `quire-server[tracing]`.",
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together: set both or neither")
        if self.ssl_ca_certs is not None and self.ssl_certfile is None:
            raise ValueError("ssl_ca_certs needs ssl_certfile and ssl_keyfile")
        return self
