"""Speculative decoding as users write it, for vLLM of several ages, in every source of settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire._config_speculation import Speculation
from quire.config import EngineConfig
from quire.engine.doctor import examine
from quire.engine.planning.plan import make_plan
from quire.errors import ConfigError, PluginError

NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
ASKED = Speculation("ngram", 5, None, {"prompt_lookup_max": 4, "prompt_lookup_min": 2})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"speculative_config": NGRAM}, ASKED),
        ({"speculative_config": json.dumps(NGRAM)}, ASKED),
        ({"speculative_config": {**NGRAM, "model": "ngram"}}, ASKED),
        (
            {"speculative_config": {"model": "[ngram]", "num_speculative_tokens": 2}},
            Speculation("ngram", 2),
        ),
        (
            {"speculative_config": {"model": "small", "num_speculative_tokens": 3}},
            Speculation("draft", 3, "small"),
        ),
        (
            {"speculative_config": {"method": "draft_model", "model": "s", "num_speculative_tokens": "3"}},
            Speculation("draft", 3, "s"),
        ),
        (
            {"speculative_config": {"method": "eagle3", "model": "e", "num_speculative_tokens": 3, "x": 1}},
            Speculation("eagle", 3, "e", {"x": 1}),
        ),
        ({"speculative_model": "small", "num_speculative_tokens": 4}, Speculation("draft", 4, "small")),
        (
            {
                "speculative_model": "[ngram]",
                "num_speculative_tokens": 5,
                "ngram_prompt_lookup_max": 4,
                "ngram_prompt_lookup_min": 2,
            },
            ASKED,
        ),
        (
            {"num_speculative_tokens": 5, "ngram_prompt_lookup_max": 3},
            Speculation("ngram", 5, None, {"prompt_lookup_max": 3}),
        ),
        ({}, None),
    ],
)
def test_ways_to_write_it(settings: dict[str, Any], expected: Speculation | None) -> None:
    assert EngineConfig(**settings).speculation == expected


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"speculative_config": NGRAM, "num_speculative_tokens": 5},
            "num_speculative_tokens and speculative_config say the same thing in two ways",
        ),
        ({"num_speculative_tokens": 5}, "nothing says who does"),
        ({"speculative_model": "small"}, "speculative_model does not say how many tokens to propose"),
        ({"speculative_config": {"method": "ngram"}}, "Give num_speculative_tokens, such as 5"),
        ({"speculative_config": {"num_speculative_tokens": 5}}, "names neither a method nor a draft model"),
        ({"speculative_config": {"methd": "ngram"}}, "Unknown is 'methd': did you mean 'method'?"),
        (
            {"speculative_config": {"method": "draft_model"}},
            "'draft_model' needs a draft model",
        ),
        ({"speculative_config": {**NGRAM, "draft_tensor_parallel_size": 2}}, "leave it out, or give 1"),
        ({"speculative_config": {**NGRAM, "num_speculative_tokens": 0}}, "must be a number of at least 1"),
        ({"speculative_config": {**NGRAM, "num_speculative_tokens": True}}, "at least 1, got True"),
        ({"speculative_config": {**NGRAM, "method": 3}}, "method must be a name, got 3"),
        ({"speculative_config": {**NGRAM, "disable_by_batch_size": 4}}, "acceptance and load by itself"),
        ({"speculative_config": "ngram"}, "must be a mapping or a JSON object, got 'ngram'"),
        ({"speculative_config": "[1]"}, "must be a mapping or a JSON object, got '[1]'"),
        ({"ngram_prompt_lookup_max": 0}, "ngram_prompt_lookup_max: must be greater than or equal to 1"),
    ],
)
def test_what_is_unclear_is_an_error(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        EngineConfig(**settings)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_file_and_environment(tmp_path: Path) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("speculative_config:\n  method: ngram\n  num_speculative_tokens: 3\n")
    assert EngineConfig.load(file, environ={}).speculation == Speculation("ngram", 3)
    environ = {"QUIRE_SPECULATIVE_CONFIG": json.dumps(NGRAM)}
    assert EngineConfig.load(environ=environ).speculation == ASKED
    assert EngineConfig.load(file, environ=environ).speculation == ASKED, "mappings merge key by key"
    older = {"QUIRE_SPECULATIVE_MODEL": "small", "QUIRE_NUM_SPECULATIVE_TOKENS": "2"}
    assert EngineConfig.load(environ=older).speculation == Speculation("draft", 2, "small")


def test_the_plan_has_the_speculator_with_its_options() -> None:
    plan = make_plan(EngineConfig(model="tiny", device="cpu", speculative_config=NGRAM))
    planned = plan.plugins["speculator"]
    assert (planned.name, planned.options) == ("ngram", {"prompt_lookup_max": 4, "prompt_lookup_min": 2})
    need = plan.worker_config(show_progress=False).speculator
    assert need is not None
    assert need.num_speculative_tokens == 5
    without = make_plan(EngineConfig(model="tiny", device="cpu"))
    assert "speculator" not in without.plugins.plugins
    assert without.worker_config(show_progress=False).speculator is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompt_lookup": 3}, "speculative_config: unknown option 'prompt_lookup'"),
        ({"prompt_lookup_max": 0}, "speculative_config.prompt_lookup_max: "),
        ({"prompt_lookup_max": 1}, "prompt_lookup_min (2) must be at most prompt_lookup_max (1)"),
        ({"method": "ngrams"}, "Unknown speculator 'ngrams'. Did you mean 'ngram'?"),
        ({"model": "small"}, "it takes no draft model"),
    ],
)
def test_what_the_speculator_refuses(changes: dict[str, Any], complaint: str) -> None:
    config = EngineConfig(model="tiny", device="cpu", speculative_config={**NGRAM, **changes})
    with pytest.raises((ConfigError, PluginError)) as raised:
        make_plan(config)
    assert complaint in str(raised.value)


def test_options_stand_in_one_place() -> None:
    options = {"options": {"speculator.ngram": {"prompt_lookup_max": 3}}}
    few = {"method": "ngram", "num_speculative_tokens": 2}
    config = EngineConfig(model="tiny", device="cpu", speculative_config=few, plugins=options)
    assert make_plan(config).plugins["speculator"].options == {
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 2,
    }
    config = EngineConfig(model="tiny", device="cpu", speculative_config=NGRAM, plugins=options)
    with pytest.raises(ConfigError, match="both give 'prompt_lookup_max'"):
        make_plan(config)


def test_the_doctor_explains_it() -> None:
    report = examine(EngineConfig(model="tiny", device="cpu", speculative_config=NGRAM))
    (choice,) = (choice for choice in report.choices if choice.kind == "speculator")
    assert (choice.chosen, choice.reason) == ("quire-speculator-ngram:ngram", "asked for by name")
    assert choice.need == "up to 5 tokens ahead of a request"


def test_one_device_may_be_said() -> None:
    given = {**NGRAM, "draft_tensor_parallel_size": 1}
    assert EngineConfig(speculative_config=given).speculation == ASKED


def test_options_that_contradict_each_other_are_a_sentence() -> None:
    given = {**NGRAM, "prompt_lookup_max": 1, "prompt_lookup_min": 3}
    with pytest.raises(ConfigError) as raised:
        make_plan(EngineConfig(model="tiny", device="cpu", speculative_config=given))
    assert str(raised.value) == (
        "speculative_config: prompt_lookup_min (3) must be at most prompt_lookup_max (1)."
    )
