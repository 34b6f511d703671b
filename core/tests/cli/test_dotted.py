"""Nested settings with dots, as vLLM's users write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from quire.cli._dotted import merge_texts, rewrite
from quire.cli._main import _allowed
from quire.cli._setting_option import SettingOption
from quire.cli.options import SettingsCommand, configuration, engine_options
from quire.config import EngineConfig
from quire.plugin_plan import import_target
from quire.plugins import OK, discover

Run = Callable[..., Result]


@click.command(cls=SettingsCommand)
@click.argument("words", nargs=-1)
@click.option("--text")
@engine_options
def command(words: tuple[str, ...], text: str | None) -> tuple[tuple[str, ...], str | None, EngineConfig]:
    return words, text, configuration()


def configured(*arguments: str) -> EngineConfig:
    _, _, config = command.main(list(arguments), standalone_mode=False)
    assert isinstance(config, EngineConfig)
    return config


def refusal(*arguments: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        command.main(list(arguments), standalone_mode=False)
    assert caught.value.ctx is not None  # the message begins with how the command is used
    return caught.value.format_message()


NGRAM = {"method": "ngram", "num_speculative_tokens": 4}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--speculative-config.method", "ngram", "--speculative-config.num_speculative_tokens", "4"],
        ["--speculative-config.method=ngram", "--speculative_config.num_speculative_tokens=4"],
        ["--speculative-config", json.dumps(NGRAM)],
        ["--speculative-config", '{"method": "ngram"}', "--speculative-config.num_speculative_tokens", "4"],
        ["--speculative-config.num_speculative_tokens=4", '--speculative-config={"method": "ngram"}'],
        [
            "--speculative-config.method",
            "ngram",
            "--speculative-config",
            json.dumps(NGRAM),
        ],  # no contradiction
    ],
)
def test_every_way_to_write_a_mapping_is_the_same(arguments: list[str]) -> None:
    config = configured(*arguments)
    assert config.speculative_config == NGRAM
    assert config.origins()["speculative_config"] == "command line"


@pytest.mark.parametrize("name", ["structured-outputs-config.backend", "structured-outputs.backend"])
def test_a_mapping_and_a_group_may_name_the_same_thing(name: str) -> None:
    assert configured(f"--{name}", "xgrammar").grammars.backend == "xgrammar"
    assert configured(f"--{name}=xgrammar").grammars.backend == "xgrammar"


def test_a_groups_setting_is_its_flag() -> None:
    config = configured(
        *("--structured-outputs.compile_timeout", "3", "--structured-outputs.cache-bytes=1MiB"),
        *("--plugins.allow", "quire,quire-models-tiny"),
    )
    assert config.structured_outputs.compile_timeout == 3
    assert config.structured_outputs.cache_bytes == 1 << 20
    assert config.plugins.allow == ["quire", "quire-models-tiny"]


def test_a_plugins_options_have_its_kind_and_name() -> None:
    config = configured(
        *("--plugins.options.attention.torch.num_splits", "8", "--plugins-options.sampler.standard.a=true"),
        *("--plugins-options", '{"attention.torch": {"other": "x"}}'),
    )
    assert config.plugins.options == {
        "attention.torch": {"num_splits": 8, "other": "x"},
        "sampler.standard": {"a": True},
    }


def test_deeper_keys_and_items_of_lists() -> None:
    config = configured(
        *("--hf-overrides.rope_parameters.factor", "2.5", "--hf-overrides.rope_parameters.kind", "yarn"),
        *("--hf-overrides.architectures+", "A", "--hf-overrides.architectures+=B,C"),
        *("--hf-overrides", '{"architectures": ["D"]}', "--hf-overrides.sizes+", "1,2"),
    )
    assert config.hf_overrides == {
        "rope_parameters": {"factor": 2.5, "kind": "yarn"},
        "architectures": ["A", "B", "C", "D"],
        "sizes": [1, 2],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ngram", "ngram"),
        ("-1", -1),
        ("1e6", 1e6),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ("[1, 2]", [1, 2]),
        ('{"b": 1}', {"b": 1}),
        ("NaN", "NaN"),
        ("a=b", "a=b"),
        ("--x.y", "--x.y"),
        ("", ""),
    ],
)
def test_a_value_is_json_or_else_text(text: str, value: Any) -> None:
    assert configured("--hf-overrides.a", text).hf_overrides == {"a": value}
    assert configured(f"--hf-overrides.a={text}").hf_overrides == {"a": value}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--speculative-config.method", "a", "--speculative-config", '{"method": "b"}'],
            "Invalid value for '--speculative-config': 'method' is given twice, as 'a' and as 'b'",
        ),
        (["--hf-overrides.a", "1", "--hf-overrides.a.b", "2"], "'a' is given twice, as 1 and as {'b': 2}"),
        (["--hf-overrides.a.b=1", "--hf-overrides.a.b=2"], "'a.b' is given twice, as 1 and as 2"),
        (["--structured-outputs.bakend", "x"], "Choose one of: --structured-outputs.backend, "),
        (["--max-num-seqs.a", "1"], "--max-num-seqs holds no mapping"),
        (["--plugins.routes.a", "1"], "--plugins-routes holds no mapping"),
        (["--plugins.routes+", "ollama"], "--plugins-routes holds no mapping"),
        (["--plugins.options+", "1"], "--plugins-options is no list"),
        (["--hf-overrides+", "1"], "No such option"),
        (["--plugins-options.attention", "{}"], "Write it as --plugins-options.KEY.KEY"),
        (["--hf-overrides.", "1"], "Write it as --hf-overrides.KEY"),
        (["--hf-overrides..a=1"], "Write it as --hf-overrides.KEY"),
        (["--hf-overrides.a"], "'--hf-overrides.a' requires an argument"),
        (["--speculativ-config.method", "ngram"], "No such option"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments)


def test_unknown_keys_name_the_choices(run: Run) -> None:
    for flag in ("--structured-outputs-config.bakend", "--structured-outputs-config.disable-fallback"):
        result = run("plan", "tiny", flag, "x")
        assert (result.exit_code, "known are backend" in result.stderr) == (1, True)
    result = run("plan", "tiny", "--speculative-config.method=ngram", "--speculative-config.k=1")
    assert (result.exit_code, "give num_speculative_tokens" in result.stderr.lower()) == (1, True)


def test_what_is_no_dotted_flag_is_left_alone() -> None:
    words, text, config = command.main(
        ["--text", "--hf-overrides.a", "1.5", "a.b", "--", "--hf-overrides.b"], standalone_mode=False
    )
    assert (words, text, config.hf_overrides) == (("1.5", "a.b", "--hf-overrides.b"), "--hf-overrides.a", {})


def test_plugins_allow_counts_before_any_plugin_is_imported() -> None:
    assert _allowed(["plan", "--plugins.allow", "quire"], {}) == ["quire"]
    assert _allowed(["plan", "--plugins.allow=a,b"], {"QUIRE_PLUGINS_ALLOW": "c"}) == ["a", "b"]


def test_a_flag_merges_with_the_file_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("speculative_config: {method: ngram, num_speculative_tokens: 9}\n")
    config = configured("--config", str(file), "--speculative-config.num_speculative_tokens", "4")
    assert config.speculative_config == NGRAM


def test_every_command_with_an_engine_takes_them() -> None:
    seen = set()
    for found in discover().of_kind("command"):
        if found.status != OK:
            continue
        target = import_target("command", found.spec.name, found.spec.target)
        options = [param for param in target.params if isinstance(param, click.Option)]
        if not any("--speculative-config" in option.opts for option in options):
            continue
        seen.add(found.spec.name)
        context = target.make_context(
            found.spec.name, ["--speculative-config.method", "ngram"], resilient_parsing=True
        )
        assert list(context.meta.values())[-1][("speculative_config",)] == {"method": "ngram"}
        text = target.get_help(context)
        assert (
            "  JSON flags take keys: --hf-overrides.rope_theta 1e6; lists: --FLAG.KEY+ A,B\n" in f"{text}\n"
        )
    assert {"chat", "doctor", "generate", "latency", "plan", "profile", "throughput"} <= seen


def test_completion_of_half_a_line_raises_nothing() -> None:
    for argument in ("--hf-overrides.a", "--structured-outputs.x", "--hf-overrides+"):
        assert command.make_context("command", [argument], resilient_parsing=True) is not None


def test_a_requests_mappings_too(run: Run, fakes: Any) -> None:
    assert run("generate", "tiny", "hi", "--logit-bias.5", "-100", "--extra-args.floor", "2").exit_code == 0
    _, params = fakes.last.asked[-1]
    assert (params.logit_bias, params.extra_args) == ({5: -100.0}, {"floor": 2})


keys = st.text("abc", min_size=1, max_size=2)
mappings = st.dictionaries(
    keys, st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, min_size=1)), max_size=4
)


def leaves(mapping: dict[str, Any], path: str = "--x") -> list[tuple[str, Any]]:
    return [
        leaf
        for key, value in mapping.items()
        for leaf in (
            leaves(value, f"{path}.{key}") if isinstance(value, dict) else [(f"{path}.{key}", value)]
        )
    ]


@given(mapping=mappings, data=st.data())
def test_a_mapping_may_be_taken_apart_and_put_together(mapping: dict[str, Any], data: st.DataObject) -> None:
    option = SettingOption(["--x"], section="", rare=False, key_words=1, multiple=True)
    parts = data.draw(st.permutations(leaves(mapping)))
    flags = rewrite([word for name, value in parts for word in (name, str(value))], [option])
    assert merge_texts([flag.removeprefix("--x=") for flag in flags]) == mapping
