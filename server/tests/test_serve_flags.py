"""The `serve:` section as flags: a flag per setting, keys as secrets, the environment under them."""

from __future__ import annotations

import json
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner

from quire.cli import main
from quire.cli.options import SettingsCommand, configuration, engine_options, section_options
from quire_server.cli.serve import show_start
from quire_server.config import ServeConfig
from quire_server.testing.fake_engine import make_info


def settings(*arguments: str) -> ServeConfig:
    """The section that a command with these arguments gets."""
    got: list[ServeConfig] = []

    @click.command(cls=SettingsCommand)
    @section_options("serve", ServeConfig, everyday=("host", "port"))
    @engine_options
    def command() -> None:
        section = configuration("tiny").sections["serve"]
        assert isinstance(section, ServeConfig)
        got.append(section)

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    return got[0]


def test_flags_give_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_SERVE__PORT", "81")
    monkeypatch.setenv("QUIRE_SERVE__MAX_QUEUE", "7")
    section = settings(
        *("--host", "0.0.0.0", "--port", "80", "--api-key", "a", "--api-key", "b", "--no-playground"),
        *("--served-model-name", "x", "--served-model-name", "y", "--cors-origin", "http://a"),
        *("--request-timeout", "2.5"),
    )
    assert (section.host, section.port, section.max_queue) == ("0.0.0.0", 80, 7)
    assert [key.get_secret_value() for key in section.api_keys] == ["a", "b"]
    assert section.served_model_name == ["x", "y"]
    assert section.cors_origins == ["http://a"]
    assert section.request_timeout == 2.5
    assert not section.playground


def test_no_setting_needs_a_prefix() -> None:
    assert settings() == ServeConfig()

    @click.command(cls=SettingsCommand)
    @section_options("serve", ServeConfig)
    @engine_options
    def command() -> None:
        """Shows its help."""

    flags = {name for param in command.params for name in param.opts}
    assert {"--api-key", "--cors-origin", "--ssl-ca-certs"} <= flags
    assert not {flag for flag in flags if flag.startswith("--serve-")}


def test_the_published_schema_has_the_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--schema"]) == 0
    section = json.loads(capsys.readouterr().out)["properties"]["serve"]
    assert set(section["properties"]) == set(ServeConfig.model_fields)
    assert section["additionalProperties"] is False
    assert section["properties"]["api_keys"]["items"]["format"] == "password"
    assert all(one["description"] for one in section["properties"].values())


def test_keys_are_masked_wherever_they_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUIRE_SERVE__API_KEYS", "hush-hush,quiet")
    assert main(["config", "--show"]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("serve.api_keys ")]
    assert line.split() == ["serve.api_keys", '["**********",', '"**********"]', "QUIRE_SERVE__API_KEYS"]
    assert "hush" not in shown
    assert "quiet" not in shown


def test_the_card_tells_who_proposes_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    info = make_info()
    drafts = "drafts    ngram, up to 5 tokens ahead of a request"
    show_start("http://here", replace(info, report=["model     x", drafts]), ServeConfig())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("serving   http://here")
    assert lines[-2:-1] == [drafts]
    show_start("http://here", info, ServeConfig())
    assert "drafts" not in capsys.readouterr().err
