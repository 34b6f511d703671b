"""The sources alone, file and environment: YAML against PyYAML's own reading, lines, and any bytes at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quire._config_file import allowed_in_file, read_file
from quire._config_sources import (
    Layer,
    allowed_in_environment,
    decode,
    origin_of,
    read_environment,
)
from quire.errors import ConfigError

keys = st.text("abnoyéß漢_17", min_size=1, max_size=6)  # "no", "1" and "yb" are all good names
words = st.text("an:-{[]}#&*!|>'\"%@` \n\té漢\U0001f600\x85", max_size=8)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words | st.dates()
trees: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    keys,
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_size=4,
)


def read(content: bytes) -> Layer:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "quire.yaml"
        file.write_bytes(content)
        return read_file(file)


@given(trees, st.booleans())
def test_values_are_what_pyyaml_reads(tree: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True, default_flow_style=flow)
    assert read(text.encode()).values == yaml.safe_load(text)


@given(
    st.dictionaries(
        keys, st.dictionaries(keys, st.integers(), min_size=1, max_size=4), min_size=1, max_size=4
    )
)
def test_every_key_knows_its_line(tree: dict[str, dict[str, int]]) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True, default_flow_style=False)
    lines = text.splitlines()
    layer = read(text.encode())
    for outer, inner in tree.items():
        for name, value in inner.items():
            origin = layer.origin((outer, name))
            assert origin is not None
            line = lines[int(origin.rpartition(":")[2]) - 1]
            assert yaml.safe_load(line) == {name: value}


@given(st.binary(max_size=64) | st.text("-:[]{}!&*|>?#%@`'\" \n\ta1", max_size=24).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        layer = read(content)
    except ConfigError:
        return
    assert all(isinstance(key, str) for key in layer.values)


@given(st.dictionaries(words, st.integers() | words))
def test_mappings_are_json(value: dict[str, Any]) -> None:
    assert decode("mapping", json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "nil"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a JSON object"):
        decode("mapping", text)


def test_an_origin_is_that_of_the_nearest_set_ancestor_in_the_highest_layer() -> None:
    low = Layer({"a": {"b": 1, "c": [5, 6]}}, {("a",): "f:1", ("a", "b"): "f:2", ("a", "c", 1): "f:4"})
    high = Layer.of_keywords({"a": {"b": 2}}, "keyword")
    layers = [high, low]
    assert origin_of(layers, ("a", "b")) == "keyword"
    assert origin_of(layers, ("a", "c", 1)) == "f:4"
    assert origin_of(layers, ("a", "c", 0)) == "f:1"
    assert origin_of(layers, ("a", "x")) == "keyword"
    assert origin_of(layers, ("z",)) is None


def test_the_environment_layer_holds_only_what_is_known_or_unknown_to_us() -> None:
    shapes: Any = {("seed",): "scalar", ("plugins", "allow"): "list", ("serve", "port"): "scalar"}
    environ = {
        "QUIRE_SEED": "1",
        "QUIRE_PLUGINS_ALLOW": "a,b",
        "QUIRE_SERVE__PORT": "2",
        "QUIRE_EMBED__PORT": "3",
        "QUIRE_TYPO": "4",
        "PATH": "/bin",
    }
    layer = read_environment(environ, shapes)
    assert layer.values == {
        "seed": "1",
        "plugins": {"allow": ["a", "b"]},
        "serve": {"port": "2"},
        "typo": "4",  # for validation to refuse
    }
    assert layer.origin(("typo",)) == "QUIRE_TYPO"


def test_the_allowlist_can_be_known_early(tmp_path: Path) -> None:
    assert allowed_in_environment({"QUIRE_PLUGINS_ALLOW": "a, b"}) == ["a", "b"]
    assert allowed_in_environment({"QUIRE_PLUGINS_ALLOW": ""}) is None
    file = tmp_path / "quire.yaml"
    for text, expected in (
        ("plugins: {allow: [a]}", ["a"]),
        ("plugins: {allow: []}", []),
        ("plugins: {}", None),
        ("plugins: 3", None),
        ("", None),
    ):
        file.write_text(text)
        assert allowed_in_file(file) == expected


def test_one_underscore_too_few_is_said_and_kubernetes_is_not_meant() -> None:
    shapes: Any = {("serve", "port"): "scalar"}
    with pytest.raises(
        ConfigError, match=r"QUIRE_SERVE_PORT: is no setting; did you mean QUIRE_SERVE__PORT\?"
    ):
        read_environment({"QUIRE_SERVE_PORT": "80"}, shapes)
    # What a service called quire-serve puts into every container of its namespace.
    assert read_environment({"QUIRE_SERVE_PORT": "tcp://10.0.0.1:80"}, shapes).values == {}
    assert read_environment({"QUIRE_SERVE_PORT": "80"}, {}).values == {}


def test_a_clients_key_is_no_setting() -> None:
    assert read_environment({"QUIRE_API_KEY": "sk"}, {("model",): "scalar"}).values == {}
