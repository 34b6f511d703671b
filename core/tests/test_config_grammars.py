"""The backend of structured output as vLLM's users name it, in several sources of settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from quire.config import EngineConfig
from quire.errors import ConfigError


def backend(**settings: Any) -> str:
    return EngineConfig(model="tiny", **settings).grammars.backend


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "auto"),
        ({"structured_outputs": {"backend": "xgrammar"}}, "xgrammar"),
        ({"structured_outputs_config": {"backend": "xgrammar"}}, "xgrammar"),
        ({"structured_outputs_config": '{"backend": "guidance", "disable_fallback": true}'}, "guidance"),
        ({"structured_outputs_config": {"backend": "auto", "reasoning_parser": ""}}, "auto"),
        ({"structured_outputs_config": {"disable_additional_properties": True}}, "auto"),
        ({"guided_decoding_backend": "xgrammar"}, "xgrammar"),
        ({"guided_decoding_backend": "xgrammar:no-fallback"}, "xgrammar"),
        ({"guided_decoding_backend": "auto"}, "auto"),
        ({"guided_decoding_backend": "quire-grammar-xgrammar:xgrammar"}, "quire-grammar-xgrammar:xgrammar"),
        ({"guided_decoding_backend": "a", "structured_outputs": {"backend": "a"}}, "a"),
    ],
)
def test_ways_to_name_it(settings: dict[str, Any], expected: str) -> None:
    assert backend(**settings) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structured_outputs_config": {"backend": 5}}, "backend must be a name"),
        ({"structured_outputs_config": {"back": "a"}}, "unknown key 'back'"),
        ({"structured_outputs_config": {"disable_fallback": True}}, "no 'disable_fallback' for 'auto'"),
        ({"structured_outputs_config": {"disable_fallback": 1}}, "must be true or false"),
        ({"structured_outputs_config": {"disable_any_whitespace": True}}, "requests say it"),
        ({"structured_outputs_config": {"reasoning_parser": "x"}}, "a setting of its own"),
        ({"structured_outputs_config": "xgrammar"}, "must be a mapping or a JSON object"),
        ({"guided_decoding_backend": "xgrammar:disable-any-whitespace"}, "requests say it"),
        ({"guided_decoding_backend": "auto:no-fallback"}, "name one backend"),
        (
            {"guided_decoding_backend": "a", "structured_outputs_config": {"backend": "b"}},
            "structured_outputs_config 'b' and guided_decoding_backend 'a' name different backends",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        backend(**settings)


def test_other_settings_of_the_group_stay(tmp_path: Path) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("structured_outputs: {compile_timeout: 7}\n")
    environ = {"QUIRE_GUIDED_DECODING_BACKEND": "guidance"}
    grammars = EngineConfig.load(file, environ=environ).grammars
    assert (grammars.backend, grammars.compile_timeout) == ("guidance", 7)
