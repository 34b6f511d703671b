from __future__ import annotations

import pytest

from quire.contracts import QuantizationSpec
from quire.engine.planning.quantization_names import _INSTEAD, _SAME, NamedQuantization, resolve_quantization
from quire.errors import PluginError, UnsupportedModelError
from quire.plugins import Found, PluginRegistry


def plugin(name: str, *matches: str, distribution: str = "") -> Found:
    spec = QuantizationSpec(
        name=name, api=1, target="nowhere:Nothing", summary="-", matches=frozenset(matches)
    )
    return Found("quantization", spec, distribution or f"quire-quant-{name}", "1.0")


REGISTRY = PluginRegistry(
    [
        plugin("none", "none", distribution="quire"),
        plugin("int8"),
        plugin("awq", "awq"),
        plugin("gptq", "gptq"),
        plugin("compressed_tensors", "compressed-tensors"),
    ]
)


@pytest.mark.parametrize("stored", ["none", "awq", "gptq", "compressed-tensors", "somebody's own"])
def test_nothing_asked_goes_by_the_checkpoint(stored: str) -> None:
    assert resolve_quantization(None, stored, REGISTRY) == NamedQuantization(None, stored)


@pytest.mark.parametrize(
    ("asked", "stored", "name"),
    [
        ("awq_marlin", "awq", "awq"),
        ("auto_awq", "awq", "awq"),
        ("gptq_marlin", "gptq", "gptq"),
        ("GPTQ", "gptq", "gptq"),
        ("auto-gptq", "gptq", "gptq"),
        ("compressed-tensors", "compressed-tensors", "compressed_tensors"),
    ],
)
def test_other_names_of_the_same_format_are_taken_with_a_note(asked: str, stored: str, name: str) -> None:
    found = resolve_quantization(asked, stored, REGISTRY)
    assert (found.requested, found.stored) == (name, stored)
    assert repr(asked) in found.note


@pytest.mark.parametrize("asked", ["awq", "quire-quant-awq:awq"])
def test_its_own_name_needs_no_note(asked: str) -> None:
    assert resolve_quantization(asked, "awq", REGISTRY) == NamedQuantization(asked, "awq")


def test_a_checkpoint_may_say_another_name_of_its_format() -> None:
    assert resolve_quantization(None, "gptqmodel", REGISTRY) == NamedQuantization(None, "gptq")
    assert resolve_quantization(None, "sparseml", REGISTRY).stored == "compressed-tensors"


@pytest.mark.parametrize("asked", sorted(_INSTEAD))
def test_formats_that_are_not_read_say_what_to_do(asked: str) -> None:
    with pytest.raises(PluginError, match=f"{asked!r} is not a format that Quire reads. Instead: "):
        resolve_quantization(asked, "none", REGISTRY)


def test_a_checkpoint_in_a_format_that_is_not_read_says_what_to_do() -> None:
    with pytest.raises(UnsupportedModelError, match=r"format 'bitsandbytes'.* AWQ or GPTQ"):
        resolve_quantization(None, "bitsandbytes", REGISTRY)


def test_a_plugin_of_that_name_is_preferred_to_advice() -> None:
    registry = PluginRegistry([*REGISTRY.found, plugin("gguf", "gguf"), plugin("gptq_marlin", "gptq")])
    assert resolve_quantization("gguf", "gguf", registry) == NamedQuantization("gguf", "gguf")
    assert resolve_quantization(None, "gguf", registry) == NamedQuantization(None, "gguf")
    assert resolve_quantization("gptq_marlin", "gptq", registry).requested == "gptq_marlin"


@pytest.mark.parametrize(("asked", "stored"), [("awq", "gptq"), ("gptq_marlin", "awq"), ("none", "awq")])
def test_a_name_that_contradicts_the_checkpoint_names_both(asked: str, stored: str) -> None:
    with pytest.raises(PluginError, match=f"{asked!r} was asked for, and .* is {stored!r}"):
        resolve_quantization(asked, stored, REGISTRY)


def test_a_format_asked_of_a_plain_checkpoint_names_what_would_do() -> None:
    with pytest.raises(
        PluginError, match=r"'awq' was asked for, and the checkpoint is not quantized.*'int8'"
    ):
        resolve_quantization("awq", "none", REGISTRY)


def test_a_plugin_that_quantizes_itself_decides_itself() -> None:
    assert resolve_quantization("int8", "gptq", REGISTRY) == NamedQuantization("int8", "gptq")


@pytest.mark.parametrize("asked", ["awk", "quire-quant-other:awq"])
def test_an_unknown_name_is_left_to_choosing(asked: str) -> None:
    assert resolve_quantization(asked, "none", REGISTRY) == NamedQuantization(asked, "none")


def test_without_the_plugin_a_known_format_is_left_to_choosing() -> None:
    bare = PluginRegistry(REGISTRY.found[:2])
    assert resolve_quantization("awq_marlin", "awq", bare).requested == "awq_marlin"


def test_no_name_is_in_both_lists() -> None:
    assert not set(_SAME) & set(_INSTEAD)
