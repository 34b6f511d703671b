"""What `/api/tags`, `/api/show` and `/api/ps` tell about the model, and the names it answers to.

Ollama's names have a tag; a served name without one is shown, and found, with `:latest`.
"""

from __future__ import annotations

import hashlib
from typing import Any

from quire_route_ollama.answer import now
from quire_server.service import Service

_LATEST = ":latest"
_NEVER = "9999-12-31T23:59:59Z"
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


class Catalog:
    """The one model, under its names."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._since = now()

    def check(self, name: str) -> None:
        """Refuse a name under which nothing is served.

        Raises:
            ApiError: 404.
        """
        names = self._service.model_names
        self._service.model(name if name in names else name.removesuffix(_LATEST))

    def tags(self) -> dict[str, Any]:
        """`GET /api/tags`."""
        return {"models": [self._entry(name) for name in self._service.model_names]}

    def running(self) -> dict[str, Any]:
        """`GET /api/ps`. Sizes are those of the weights and the KV cache, in bytes."""
        info = self._service.info
        size = info.weights_bytes + info.kv_bytes
        return {
            "models": [
                {
                    **self._entry(name),
                    "size": size,
                    "size_vram": 0 if info.device == "cpu" else size,
                    "expires_at": _NEVER,
                    "context_length": info.max_model_len,
                }
                for name in self._service.model_names
            ]
        }

    def show(self) -> dict[str, Any]:
        """`POST /api/show`."""
        info = self._service.info
        defaults = {_OLLAMA.get(name, name): value for name, value in info.sampling_defaults.items()}
        parameters = "\n".join(f"{name} {value}" for name, value in sorted(defaults.items()))
        family = self._family()
        template = getattr(self._service.engine.get_tokenizer(), "chat_template", None)
        return {
            "license": "",
            "modelfile": f"FROM {self._service.model_names[0]}\n"
            + "".join(f"PARAMETER {line}\n" for line in parameters.splitlines()),
            "parameters": parameters,
            "template": template if isinstance(template, str) else "",
            "details": self._details(),
            "model_info": {
                "general.architecture": family,
                "general.parameter_count": info.num_parameters,
                f"{family}.context_length": info.max_model_len,
                f"{family}.vocab_size": info.vocab_size,
            },
            "capabilities": [
                "completion",
                *(["tools"] if self._service.parsers.calls else []),
                *(["thinking"] if self._service.parsers.thinks else []),
            ],
            "modified_at": self._since,
        }

    def _entry(self, name: str) -> dict[str, Any]:
        shown = name if ":" in name else name + _LATEST
        return {
            "name": shown,
            "model": shown,
            "modified_at": self._since,
            "size": self._service.info.weights_bytes,
            "digest": self._digest(),
            "details": self._details(),
        }

    def _details(self) -> dict[str, Any]:
        info = self._service.info
        return {
            "parent_model": "",
            "format": "safetensors",
            "family": self._family(),
            "families": [self._family()],
            "parameter_size": _short(info.num_parameters),
            "quantization_level": info.dtype,
        }

    def _family(self) -> str:
        return self._service.info.architecture.removesuffix("ForCausalLM").lower()

    def _digest(self) -> str:
        """One per model and precision. The weights themselves are not read again for it."""
        info = self._service.info
        said = f"{info.model}\n{info.architecture}\n{info.dtype}\n{info.num_parameters}"
        return hashlib.sha256(said.encode()).hexdigest()


_OLLAMA = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}


def _short(count: int) -> str:
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
