"""What vLLM's settings about structured output come to in Quire's own group of settings.

Knows the ways in which vLLM's users write it. Must never know which grammar plugins are installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire._config_groups import StructuredOutputsConfig

__all__ = ["read_grammars"]

_NO_OTHER = "name one backend as structured_outputs.backend, and no other is asked"
_IN_A_REQUEST = "requests say it: StructuredOutputsParams(disable_any_whitespace=True)"
_ELSEWHERE = {
    "disable_any_whitespace": _IN_A_REQUEST,
    "enable_in_reasoning": "a form is that of the answer, and thinking stays free; leave it out",
    "reasoning_parser": "it is a setting of its own, reasoning_parser",
    "reasoning_parser_plugin": "parsers are plugins that are installed; name one as reasoning_parser",
}
"""Keys of vLLM's that ask for something Quire has elsewhere, or not."""
_NO_FALLBACK, _COMPACT = "no-fallback", "disable-any-whitespace"


def read_grammars(
    own: StructuredOutputsConfig, config: Mapping[str, Any] | None, backend: str | None
) -> StructuredOutputsConfig:
    """Quire's group of settings, with the backend that vLLM's settings name.

    Args:
        own: `structured_outputs`.
        config, backend: `structured_outputs_config` and `guided_decoding_backend`.

    Raises:
        ValueError: they contradict each other, or ask for what is not there; the message names the setting.
    """
    found: dict[str, str] = {}
    if own.backend != "auto":
        found["structured_outputs.backend"] = own.backend
    if config is not None and (named := _from_mapping(config)) is not None:
        found["structured_outputs_config"] = named
    if backend is not None:
        found["guided_decoding_backend"] = _from_text(backend)
    if len(set(found.values())) > 1:
        said = " and ".join(f"{name} {value!r}" for name, value in found.items())
        raise ValueError(f"{said} name different backends. Name one, in one of these settings.")
    chosen = next(iter(found.values()), "auto")
    return own if chosen == own.backend else own.model_copy(update={"backend": chosen})


def _from_mapping(config: Mapping[str, Any]) -> str | None:
    where = "structured_outputs_config"
    rest = dict(config)
    backend = rest.pop("backend", "auto")
    if not isinstance(backend, str) or not backend:
        raise ValueError(f"{where}: backend must be a name, got {backend!r}")
    for name in ("disable_fallback", "disable_additional_properties"):
        value = rest.pop(name, False)
        if not isinstance(value, bool):
            raise ValueError(f"{where}: {name} must be true or false, got {value!r}")  # noqa: TRY004 - as above
        if name == "disable_fallback" and value and backend == "auto":
            raise ValueError(f"{where}: Quire has no {name!r} for 'auto': {_NO_OTHER}")
    for name, value in rest.items():
        if name not in _ELSEWHERE:
            known = ", ".join(("backend", "disable_fallback", "disable_additional_properties"))
            raise ValueError(f"{where}: unknown key {name!r}; known are {known}")
        if value not in (False, "", None):
            raise ValueError(f"{where}: Quire has no {name!r}: {_ELSEWHERE[name]}")
    return None if backend == "auto" else backend


def _from_text(text: str) -> str:
    """The older setting: a name, and options behind a colon."""
    name, _, options = text.partition(":")
    for option in filter(None, options.split(",")):
        if option == _COMPACT:
            raise ValueError(f"guided_decoding_backend: Quire has no option {option!r}: {_IN_A_REQUEST}")
        if option != _NO_FALLBACK:
            return text  # `distribution:name`
        if name == "auto":
            raise ValueError(
                f"guided_decoding_backend: Quire has no option {option!r} for 'auto': {_NO_OTHER}"
            )
    return name
