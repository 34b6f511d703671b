"""`quire generate`: prompts from everywhere, flags to parameters, streaming, JSON, errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from quire.config import EngineConfig, StructuredOutputsConfig
from quire.errors import EngineError
from quire.sampling_params import SamplingParams
from quire.structured_outputs import StructuredOutputsParams

Run = Callable[..., Result]


def test_it_streams_the_completion_and_reports_on_stderr(fakes: Any, run: Run) -> None:
    result = run("generate", "tiny", "ab")
    assert result.exit_code == 0, result.output
    assert result.stdout == "ab!ab!ab!\n"
    assert "started at once" in result.stderr
    assert "9 tokens in 2.00 s, 4.5 tokens/s (finish reason: length)" in result.stderr
    assert fakes.last.down


def test_quiet_leaves_stderr_empty(fakes: Any, run: Run) -> None:
    assert run("generate", "tiny", "ab", "--quiet").stderr == ""


def test_flags_become_parameters_over_the_models_defaults(fakes: Any, run: Run) -> None:
    run(
        "generate", "tiny", "ab", "--max-tokens", "2", "--temperature", "0.5", "--stop", "x,y", "--stop", "z",
        "--stop-token-ids", "1,2", "--logit-bias", '{"3": -1}', "--ignore-eos", "--seed", "7",
        "--engine-seed", "9", "--max-num-seqs", "3", "--no-enable-prefix-caching", "--plugins-allow", "quire",
        "--kv-cache-memory-bytes", "1MiB", "--hf-overrides", '{"a": 1}',
    )  # fmt: skip
    prompt, params = fakes.last.asked[0]
    assert prompt == "ab"
    assert params == dataclasses.replace(
        SamplingParams(top_p=0.9),
        max_tokens=2,
        temperature=0.5,
        stop=["x,y", "z"],
        stop_token_ids=[1, 2],
        logit_bias={3: -1.0},
        ignore_eos=True,
        seed=7,
    )
    config = fakes.last.config
    assert config == EngineConfig(
        model="tiny",
        seed=9,
        max_num_seqs=3,
        enable_prefix_caching=False,
        plugins={"allow": ["quire"]},
        kv_cache_memory_bytes=1 << 20,
        hf_overrides={"a": 1},
    )
    assert config.origins()["max_num_seqs"] == "command line"


@pytest.mark.parametrize(("word", "early"), [("true", True), ("false", False), ("never", "never")])
def test_beams_are_searched_with_flags_over_none_of_the_models_defaults(
    fakes: Any, run: Run, word: str, early: bool | str
) -> None:
    run(
        "generate", "tiny", "ab", "--use-beam-search", "--n", "2", "--length-penalty", "0.6",
        "--early-stopping", word,
    )  # fmt: skip
    assert fakes.last.asked[0][1] == SamplingParams(
        n=2,
        temperature=0.0,
        max_tokens=128,
        use_beam_search=True,
        length_penalty=0.6,
        early_stopping=early,  # type: ignore[arg-type]  # the table's words are of one type to mypy
    )


def test_flags_win_over_the_environment_and_that_over_the_file(
    fakes: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("max_num_seqs: 1\nblock_size: 1\nmax_logprobs: 1\nmodel: other\n")
    monkeypatch.setenv("QUIRE_BLOCK_SIZE", "2")
    monkeypatch.setenv("QUIRE_MAX_NUM_SEQS", "2")
    run("generate", "tiny", "ab", "--config", str(file), "--max-num-seqs", "3")
    config = fakes.last.config
    assert (config.model, config.max_num_seqs, config.block_size, config.max_logprobs) == ("tiny", 3, 2, 1)


def test_without_max_tokens_there_are_128(fakes: Any, run: Run) -> None:
    run("generate", "tiny", "x" * 90)
    assert fakes.last.asked[0][1].max_tokens == 128


@pytest.mark.parametrize("arguments", [["-"], []])
def test_the_prompt_may_be_piped_in(fakes: Any, run: Run, arguments: list[str]) -> None:
    assert run("generate", "tiny", *arguments, "--quiet", input="é\n").stdout == "é\n!é\n!é\n!\n"


def test_the_prompt_may_be_a_file(fakes: Any, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("from a file", encoding="utf-8")
    run("generate", "tiny", "--file", str(file))
    assert fakes.last.asked[0][0] == "from a file"


def test_bad_prompts_are_usage_errors(fakes: Any, run: Run, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    for arguments, data, expected in (
        (["x", "--file", str(binary)], None, "not both"),
        (["--file", str(binary)], None, "not UTF-8"),
        (["--file", str(tmp_path / "absent")], None, "No such file"),
        ([], "", "Give a prompt"),
        (["-"], b"\xff", "standard input is not UTF-8"),
    ):
        result = run("generate", "tiny", *arguments, input=data)
        assert result.exit_code == 2
        assert expected in result.stderr
    assert not fakes.opened


def test_json_is_the_result_and_nothing_else(fakes: Any, run: Run) -> None:
    result = run("generate", "tiny", "ab", "--json")
    assert result.stderr == ""
    output = json.loads(result.stdout)
    assert output["outputs"][0]["text"] == "ab!ab!ab!"
    assert output["outputs"][0]["cumulative_logprob"] is None  # -inf is not JSON
    assert output["finished"] is True


def test_several_completions_are_printed_one_after_the_other(fakes: Any, run: Run) -> None:
    result = run("generate", "tiny", "a", "--n", "2", "--max-tokens", "2", "--quiet")
    assert result.stdout == "--- 1 of 2 ---\na!\n--- 2 of 2 ---\na!\n"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--max-num-seqs", "0"], 1, "error: max_num_seqs: must be greater than or equal to 1, got 0"),
        (["--max-num-seqs", "x"], 2, "--max-num-seqs"),
        (["--dtype", "fp8"], 2, "--dtype"),
        (["--kv-cache-memory-bytes", "lots"], 1, "error: kv_cache_memory_bytes: must be a number of bytes"),
        (["--trust-remote-code"], 1, "error: trust_remote_code: must be false: Quire never runs code"),
        (["--tensor-parallel-size", "2"], 1, "error: tensor_parallel_size: must be 1"),
        (["--logit-bias", "[1]"], 2, "must be a JSON object"),
        (["--logit-bias", '{"a": 1}'], 2, "--logit-bias"),
        (["--stop-token-ids", "a"], 2, "--stop-token-ids"),
        (["--max-nun-seqs", "1"], 2, "--max-num-seqs"),
        (["--temperature", "-1"], 1, "error: temperature"),
        (["--early-stopping", "never"], 1, "error: early_stopping"),
        (["--use-beam-search", "--early-stopping", "soon"], 1, "error: early_stopping"),
        (["--config", "absent.yaml"], 1, "error: absent.yaml: cannot read the configuration file"),
    ],
)
def test_bad_flags_are_messages(fakes: Any, run: Run, arguments: list[str], code: int, expected: str) -> None:
    result = run("generate", "tiny", "ab", *arguments)
    assert result.exit_code == code
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert not fakes.opened


SCHEMA = '{"type": "object"}'


@pytest.mark.parametrize(
    ("flags", "form"),
    [
        (["--json-schema", SCHEMA], {"json": SCHEMA}),
        (["--json-schema", "schema.json"], {"json": SCHEMA}),
        (["--regex", "a+"], {"regex": "a+"}),
        (["--choice", "yes, of course", "--choice", "no"], {"choice": ["yes, of course", "no"]}),
        (["--grammar", 'root ::= "a"'], {"grammar": 'root ::= "a"'}),
    ],
)
def test_a_form_of_the_output(
    fakes: Any,
    run: Run,
    flags: list[str],
    form: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    monkeypatch.chdir(tmp_path)
    assert run("generate", "tiny", "ab", *flags).exit_code == 0
    assert fakes.last.asked[0][1].structured_outputs == StructuredOutputsParams(**form)


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        (["--regex", "a", "--choice", "b"], 2, "Give one of --json-schema"),
        (["--json-schema", "absent.json"], 2, "cannot read 'absent.json'"),
        (["--regex", ""], 1, "error: regex is ''"),
    ],
)
def test_what_is_no_form(fakes: Any, run: Run, flags: list[str], code: int, expected: str) -> None:
    result = run("generate", "tiny", "ab", *flags)
    assert (result.exit_code, expected in result.stderr) == (code, True), result.stderr
    assert not fakes.opened


def test_a_failing_engine_is_a_message_and_is_shut_down(fakes: Any, run: Run) -> None:
    fakes.error = EngineError("the worker is gone")
    result = run("generate", "tiny", "ab")
    assert result.exit_code == 1
    assert "error: the worker is gone" in result.stderr
    assert fakes.last.down


def test_an_interrupt_is_quiet(fakes: Any, run: Run) -> None:
    fakes.error = KeyboardInterrupt()
    result = run("generate", "tiny", "ab", "--quiet")
    assert (result.exit_code, result.stderr.strip()) == (130, "")
    assert fakes.last.down


def test_traceback_shows_where_an_error_comes_from(fakes: Any, run: Run) -> None:
    fakes.error = EngineError("the worker is gone")
    result = run("--traceback", "generate", "tiny", "ab")
    assert isinstance(result.exception, EngineError)


def test_every_setting_has_a_flag(run: Run) -> None:
    everyday, everything = (run("generate", flag).stdout for flag in ("--help", "--help-all"))
    flags = [
        name.replace("_", "-")
        for name in EngineConfig.model_fields
        if name not in ("model", "plugins", "seed", "structured_outputs")
    ]
    flags += ["engine-seed", "plugins-allow", "plugins-options", "plugins-routes"]
    flags += [f"structured-outputs-{name.replace('_', '-')}" for name in StructuredOutputsConfig.model_fields]
    sampling = [field.name for field in dataclasses.fields(SamplingParams) if field.repr]
    flags += [
        name.replace("_", "-") for name in sampling if name not in ("structured_outputs", "guided_decoding")
    ]
    missing = [flag for flag in flags if f"--{flag} " not in everything]
    assert missing == []
    assert "--tensor-parallel-size" not in everyday
    assert "--use-beam-search" not in everyday
    assert "--bad-words-token-ids" not in everything
