"""Configuration: precedence, origins, errors with lines, what is refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from quire._config_types import parse_bytes
from quire._config_vllm import ELSEWHERE, is_fulfilled
from quire.config import EngineConfig, PluginsConfig
from quire.errors import ConfigError


class ServeSection(BaseModel):
    """A section as the server would add one."""

    model_config = ConfigDict(extra="forbid")
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1)
    api_keys: list[str] = []


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QUIRE_")]:
        monkeypatch.delenv(name)


def write(directory: Path, text: str) -> Path:
    file = directory / "quire.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def complaint(file: Path | None = None, environ: Any = None, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        EngineConfig.load(file, environ=environ or {}, **overrides)
    return str(caught.value)


def test_every_source_overrides_the_one_before(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 1\nblock_size: 32\nmax_num_seqs: 4\n")
    environ = {"QUIRE_BLOCK_SIZE": "64", "QUIRE_MAX_NUM_SEQS": "5"}
    config = EngineConfig.load(file, environ=environ, max_num_seqs=6)
    assert (config.max_num_batched_tokens, config.seed, config.block_size, config.max_num_seqs) == (
        2048,
        1,
        64,
        6,
    )
    origins = config.origins()
    assert origins["max_num_batched_tokens"] == "default"
    assert origins["seed"] == f"{file}:1"
    assert origins["block_size"] == "QUIRE_BLOCK_SIZE"
    assert origins["max_num_seqs"] == "keyword"


def test_the_constructor_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_MAX_MODEL_LEN", "128")
    monkeypatch.setenv("QUIRE_ENABLE_PREFIX_CACHING", "false")
    config = EngineConfig(model="tiny", seed=3)
    assert (config.model, config.max_model_len, config.enable_prefix_caching) == ("tiny", 128, False)
    assert config.origins()["enable_prefix_caching"] == "QUIRE_ENABLE_PREFIX_CACHING"


def test_lists_and_mappings_from_variables() -> None:
    config = EngineConfig.load(
        environ={
            "QUIRE_PLUGINS_ALLOW": "quire, quire-attn-torch,",
            "QUIRE_HF_OVERRIDES": '{"rope_theta": 1e4}',
            "QUIRE_PLUGINS_OPTIONS": '{"attention.torch": {"chunk": 8}}',
            "QUIRE_TOKENIZER": "",
        }
    )
    assert config.plugins.allow == ["quire", "quire-attn-torch"]
    assert config.hf_overrides == {"rope_theta": 1e4}
    assert config.plugins.options == {"attention.torch": {"chunk": 8}}
    assert config.tokenizer is None
    assert config.origins()["plugins.allow"] == "QUIRE_PLUGINS_ALLOW"


def test_nested_settings_merge_key_by_key(tmp_path: Path) -> None:
    file = write(tmp_path, "plugins:\n  options:\n    attention.torch: {chunk: 8}\n")
    config = EngineConfig.load(file, environ={"QUIRE_PLUGINS_ALLOW": "quire"}, plugins={"routes": ["embed"]})
    assert config.plugins == PluginsConfig(
        allow=["quire"], options={"attention.torch": {"chunk": 8}}, routes=["embed"]
    )
    origins = config.origins()
    assert [origins[f"plugins.{key}"] for key in ("allow", "options", "routes")] == [
        "QUIRE_PLUGINS_ALLOW",
        f"{file}:2",
        "keyword",
    ]


def test_a_plugins_model_may_be_given_whole() -> None:
    config = EngineConfig.load(environ={"QUIRE_PLUGINS_ALLOW": "a"}, plugins=PluginsConfig(routes=["r"]))
    assert (config.plugins.allow, config.plugins.routes) == (["a"], ["r"])


def test_variables_of_service_links_and_unknown_sections_are_left_alone() -> None:
    environ = {
        "QUIRE_SERVICE_HOST": "10.0.0.1",
        "QUIRE_PORT": "tcp://10.0.0.1:80",
        "QUIRE_SERVER_PORT_8000_TCP_ADDR": "10.0.0.1",
        "QUIRE_SERVICE_PORT_HTTP": "80",
        "QUIRE_SERVE__PORT": "9000",
        "OTHER": "x",
    }
    assert EngineConfig.load(environ=environ) == EngineConfig.load(environ={})


@pytest.mark.parametrize("name", ["QUIRE_MAX_NUM_SEQ", "QUIRE_PORTS", "QUIRE_PLUGIN_ALLOW"])
def test_an_unknown_variable_is_an_error(name: str) -> None:
    message = complaint(environ={name: "1"})
    assert message.startswith(f"{name}: ")
    assert "unknown option" in message


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("max_num_seq", "max_num_seq: unknown option; did you mean 'max_num_seqs'?"),
        ("max-model-len", "max-model-len: unknown option; did you mean 'max_model_len'?"),
        ("xyzzy", "xyzzy: unknown option; known are: attention_backend, "),
    ],
)
def test_an_unknown_keyword_names_the_nearest(key: str, expected: str) -> None:
    assert complaint(None, None, **{key: 1}).startswith(expected)


@pytest.mark.parametrize("key", sorted(ELSEWHERE))
def test_names_of_vllm_say_what_to_use(key: str) -> None:
    assert complaint(None, None, **{key: "?"}) == f"{key}: Quire has no such option: {ELSEWHERE[key]}"


@pytest.mark.parametrize(
    "settings",
    [
        {"disable_log_stats": True, "swap_space": 0, "tokenizer_mode": "auto", "task": "generate"},
        {"disable_custom_all_reduce": True, "data_parallel_size": 1, "enable_lora": False},
        dict.fromkeys(ELSEWHERE),
    ],
)
def test_names_of_vllm_may_ask_for_what_is_the_case(settings: dict[str, Any]) -> None:
    assert EngineConfig(model="tiny", **settings) == EngineConfig(model="tiny")
    loaded = EngineConfig.load(environ={}, model="tiny", **settings)
    assert loaded == EngineConfig(model="tiny")
    assert not loaded.origins().keys() & settings.keys()


def test_a_value_counts_with_its_type() -> None:
    assert is_fulfilled("data_parallel_size", 1)
    assert not is_fulfilled("data_parallel_size", True)
    assert not is_fulfilled("disable_log_stats", 1)
    assert not is_fulfilled("max_model_len", None)


def test_no_advice_hides_a_setting_that_exists() -> None:
    assert not ELSEWHERE.keys() & EngineConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"tensor_parallel_size": 2}, "must be 1"),
        ({"pipeline_parallel_size": 2}, "must be 1"),
        ({"trust_remote_code": True}, "Quire never runs code from a model repository"),
    ],
)
def test_what_is_not_built_is_refused_by_name(setting: dict[str, Any], reason: str) -> None:
    message = complaint(**setting)
    (name,) = setting
    assert message.startswith(f"{name}: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [True, False])
def test_enforce_eager_takes_both(value: bool) -> None:
    assert EngineConfig(enforce_eager=value).enforce_eager is value


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs: must be greater than or equal to 1, got 0"),
        ({"max_num_seqs": True}, "max_num_seqs: must be a number, got True"),
        ({"max_num_seqs": 1.5}, "got 1.5"),
        ({"threads": 0}, "threads: must be 'auto' or a number of at least 1, got 0"),
        ({"threads": "many"}, "threads: must be 'auto' or a number of at least 1, got 'many'"),
        ({"threads": True}, "threads: must be 'auto' or a number of at least 1, got True"),
        ({"gpu_memory_utilization": 0}, "must be greater than 0, got 0"),
        ({"gpu_memory_utilization": 1.01}, "must be less than or equal to 1, got 1.01"),
        ({"gpu_memory_utilization": float("nan")}, "must be a finite number"),
        ({"dtype": "fp8"}, "must be 'auto', 'half', 'float16', 'bfloat16', 'float' or 'float32', got 'fp8'"),
        ({"device": "cuda:1"}, "must be 'auto', 'cpu' or 'cuda', got 'cuda:1'"),
        ({"block_size": 2048}, "must be less than or equal to 1024"),
        ({"seed": -1}, "must be greater than or equal to 0"),
        ({"seed": 2**63}, "seed: must be less than"),
        ({"model": None}, "model: must be a valid string, got None"),
        ({"kv_cache_memory_bytes": "2 gigs"}, "must be a number of bytes such as 2147483648 or '2GiB'"),
        ({"kv_cache_memory_bytes": 0}, "must be greater than or equal to 1"),
        ({"plugins": {"options": {"attention": {}}}}, "must be 'kind.name'"),
        ({"plugins": {"options": {"engine.x": {}}}}, "kinds are: attention, model,"),
        ({"plugins": {"alow": []}}, "plugins.alow: unknown option; did you mean 'allow'?"),
        ({"enable_chunked_prefill": False, "max_model_len": 4096}, "max_num_batched_tokens (2048) must be"),
    ],
)
def test_wrong_values_say_what_must_hold(setting: dict[str, Any], expected: str) -> None:
    assert expected in complaint(**setting)


def test_a_config_error_is_a_value_error_and_the_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="seed"):
        EngineConfig(seed="x")
    with pytest.raises(ValueError, match="frozen"):
        setattr(EngineConfig(), "seed", 1)  # noqa: B010 - mypy knows that it is read-only


def test_torch_dtypes_are_taken_by_name() -> None:
    torch = pytest.importorskip("torch")
    assert EngineConfig(dtype=torch.bfloat16).dtype == "bfloat16"
    assert "dtype: must be" in complaint(dtype=torch.int8)


def test_names_may_be_paths(tmp_path: Path) -> None:
    assert EngineConfig(model=tmp_path, tokenizer=tmp_path).model == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2 << 30), ("500 MB", 500_000_000), ("1.5kib", 1536), ("7b", 7), ("4096", 4096), (12, 12)],
)
def test_bytes_are_written_with_units(text: str | int, size: int) -> None:
    assert EngineConfig(kv_cache_memory_bytes=text).kv_cache_memory_bytes == size


@given(st.integers(0, 10**6), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_binary_units_are_powers_of_1024(number: int, unit: str) -> None:
    power = ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert parse_bytes(f"{number}{unit}") == number * 1024**power


def test_file_errors_name_every_line_in_order(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "# comment\nmax_num_seqs: 0\nseed: yes\n\nplugins:\n  alow: [x]\n"
        "  options:\n    attention: {}\n  routes:\n    - ok\n    - 3\nmax_model_length: 5\n",
    )
    lines = complaint(file).splitlines()
    assert [line.removeprefix(f"{file}:").split(":")[:2] for line in lines] == [
        ["2", " max_num_seqs"],
        ["3", " seed"],
        ["6", " plugins.alow"],
        ["8", " plugins.options.attention"],
        ["11", " plugins.routes.1"],
        ["12", " max_model_length"],
    ]


def test_a_variables_error_names_the_variable_and_not_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 1\n")
    assert complaint(file, {"QUIRE_SEED": "many"}).startswith("QUIRE_SEED: seed: must be a valid integer")
    assert complaint(environ={"QUIRE_HF_OVERRIDES": "[1]"}).startswith(
        "QUIRE_HF_OVERRIDES: must be a JSON obj"
    )
    assert complaint(environ={"QUIRE_HF_OVERRIDES": "{"}).startswith(
        "QUIRE_HF_OVERRIDES: must be a JSON object"
    )


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("seed: 1\nseed: 2\n", 2, "seed: given twice; the first is on line 1"),
        ("plugins:\n  allow: []\n  allow: []\n", 3, "allow: given twice"),
        ("- seed\n", 1, "must hold a mapping of settings, such as 'max_num_seqs: 32', not a list"),
        ("just text\n", 1, "not a single value"),
        ("seed: 1\n  model: x\n", 2, "not valid YAML"),
        ("a: [1, 2\n", 2, "not valid YAML"),
        ("a: 1\n--- \nb: 2\n", 2, "not valid YAML"),
        ("seed: !!python/object/apply:os.system [id]\n", 1, "not valid YAML"),
        ("seed: 1\nmodel: 2026-13-40\n", 2, "not valid YAML"),
        ("seed: !!bool maybe\n", 1, "not valid YAML"),
        ("seed: !!timestamp never\n", 1, "not valid YAML"),
        ("1: x\n", 1, "a setting's name must be text"),
        ("hf_overrides: &a {b: *a}\n", 1, "an alias may not contain itself"),
        ("hf_overrides: {[1]: 2}\n", 1, ""),
    ],
)
def test_bad_yaml_names_its_line(tmp_path: Path, text: str, line: int, expected: str) -> None:
    file = write(tmp_path, text)
    message = complaint(file)
    assert message.startswith(f"{file}:{line}: ")
    assert expected in message


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "absent.yaml")
    assert "cannot read" in complaint(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in complaint(binary)
    assert "not valid YAML" in complaint(write(tmp_path, "seed: \x01\n"))
    assert "nested too deeply" in complaint(write(tmp_path, "model: " + "[" * 2_000))


def test_an_empty_file_and_merge_keys_are_fine(tmp_path: Path) -> None:
    assert EngineConfig.load(write(tmp_path, "# nothing\n"), environ={}) == EngineConfig.load(environ={})
    file = write(tmp_path, "hf_overrides: {<<: {a: 1, b: 2}, b: 3}\n")
    assert EngineConfig.load(file, environ={}).hf_overrides == {"a": 1, "b": 3}


def test_a_section_is_validated_by_its_owner_from_every_source(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 2\nserve:\n  host: 0.0.0.0\n  port: 1\n")
    config = EngineConfig.load(
        file,
        sections={"serve": ServeSection},
        environ={"QUIRE_SERVE__PORT": "90", "QUIRE_SERVE__API_KEYS": "a,b"},
        serve={"api_keys": ["c"]},
    )
    assert config.seed == 2
    assert config.sections == {"serve": ServeSection(host="0.0.0.0", port=90, api_keys=["c"])}


def test_a_sections_errors_have_lines_and_come_with_the_others(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: x\nserve:\n  prot: 1\n  port: 0\n")
    with pytest.raises(ConfigError) as caught:
        EngineConfig.load(file, sections={"serve": ServeSection}, environ={})
    assert str(caught.value).splitlines() == [
        f"{file}:1: seed: must be a valid integer, unable to parse string as an integer, got 'x'",
        f"{file}:3: serve.prot: unknown option; did you mean 'port'?",
        f"{file}:4: serve.port: must be greater than or equal to 1, got 0",
    ]


def test_a_section_nobody_knows_is_an_unknown_option(tmp_path: Path) -> None:
    assert "serve: unknown option" in complaint(write(tmp_path, "serve: {port: 1}\n"))


@pytest.mark.parametrize("text", ["", "serve:\n", "serve: {}\n"])
def test_an_absent_or_empty_section_has_its_defaults(tmp_path: Path, text: str) -> None:
    config = EngineConfig.load(write(tmp_path, text), sections={"serve": ServeSection}, environ={})
    assert config.sections["serve"] == ServeSection()


def test_a_section_that_is_no_mapping_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path, "serve: 8000\n")
    with pytest.raises(ConfigError, match=r"yaml:1: serve: must be a valid dictionary"):
        EngineConfig.load(file, sections={"serve": ServeSection}, environ={})


def test_the_schema_describes_every_field_and_section() -> None:
    schema = EngineConfig.json_schema({"serve": ServeSection})
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {*EngineConfig.model_fields, "serve"}
    for name in EngineConfig.model_fields:
        assert schema["properties"][name]["description"], name
    size = schema["properties"]["kv_cache_memory_bytes"]["anyOf"]
    assert size == [{"type": "integer"}, {"type": "string"}, {"type": "null"}]


def test_what_was_dumped_validates_again() -> None:
    config = EngineConfig(model="tiny", kv_cache_memory_bytes="1MiB", plugins={"allow": ["quire"]})
    assert EngineConfig(**config.model_dump()) == config


def test_importing_the_config_imports_no_torch() -> None:
    code = "import sys, quire.config; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("text", "threads"), [("auto", "auto"), ("3", 3)])
def test_threads_are_a_number_or_chosen(text: str, threads: object) -> None:
    assert EngineConfig.load(environ={"QUIRE_THREADS": text}).threads == threads
