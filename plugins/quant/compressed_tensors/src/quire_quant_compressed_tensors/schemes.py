"""Which scheme the checkpoint's settings give a module. Knows the configuration; no tensors.

The settings are those of compressed-tensors' `QuantizationConfig`: groups of targets, each with a scheme, and
names that are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quire.errors import CheckpointError, UnsupportedModelError

LINEAR = "Linear"
"""The class that a projection has where targets name classes."""

_PATTERN = "re:"
_WAY_OUT = (
    "Use a checkpoint in W4A16 or W8A16 (pack-quantized), in W8A8 with dynamic activations per token "
    "(int-quantized), or in FP8 with dynamic ones per token or static ones per tensor (float-quantized)."
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the modules of one group are quantized.

    Attributes:
        group: the group's name in the settings, for messages.
        kind: "packed" (integers in words, activations as they are), "int8" or "fp8" (8-bit weights and
            activations).
        bits: of a weight.
        group_size: inputs that share a scale; None if an output's inputs all do.
        per_tensor: whether all outputs share one scale too.
        symmetric: whether there are no zero points.
        indexed: whether each input has a group index (act-order by group).
        static: whether activations have one stored scale; those of "int8" and "fp8" are dynamic otherwise,
            a scale per token.
    """

    group: str
    kind: Literal["packed", "int8", "fp8"]
    bits: int
    group_size: int | None = None
    per_tensor: bool = False
    symmetric: bool = True
    indexed: bool = False
    static: bool = False


class Schemes:
    """The settings of a checkpoint, asked module by module."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Read all groups, also those that no module will use.

        Raises:
            CheckpointError: the settings are malformed.
            UnsupportedModelError: they ask for something that is not implemented.
        """
        _refuse_extras(settings)
        self._ignored = _strings(settings.get("ignore") or (), "ignore")
        self._targets: list[tuple[str, Scheme]] = []
        groups = settings.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise _wrong("config_groups", groups, "a table of at least one group")
        for name, group in groups.items():
            what = f"config_groups.{name}"
            if not isinstance(group, Mapping):
                raise _wrong(what, group, "a table with targets and weights")
            targets = _strings(group.get("targets"), f"{what}.targets")
            scheme = _scheme(str(name), group, group.get("format") or settings.get("format"))
            if scheme is not None:
                self._targets += [(target, scheme) for target in targets]
        # As its writer does: a full name goes before a pattern, and a class comes last.
        self._targets.sort(key=lambda entry: (entry[0] == LINEAR, entry[0].startswith(_PATTERN)))

    def of(self, module: str) -> Scheme | None:
        """The scheme of a projection; None for one that is left as it was."""
        if any(_matches(entry, module) for entry in self._ignored):
            return None
        return next((scheme for target, scheme in self._targets if _matches(target, module)), None)


def _matches(target: str, module: str) -> bool:
    """A class's name, a pattern from the start of the module's name, or the name itself."""
    if target.startswith(_PATTERN):
        return re.match(target.removeprefix(_PATTERN), module) is not None
    return target in (module, LINEAR)


def _refuse_extras(settings: Mapping[str, Any]) -> None:
    """What would change the numbers or the tensors, and is not implemented."""
    for key in ("kv_cache_scheme", "transform_config"):
        if settings.get(key):
            raise UnsupportedModelError(
                f"quantization_config.{key} of the checkpoint is {_short(settings[key])}, which is not "
                f"implemented. {_WAY_OUT}"
            )
    sparsity = settings.get("sparsity_config") or {}
    if not isinstance(sparsity, Mapping):
        raise _wrong("sparsity_config", sparsity, "a table")
    if sparsity.get("format", "dense") != "dense":
        raise UnsupportedModelError(
            f"The checkpoint's sparse format {sparsity['format']!r} (sparsity_config) is not implemented. "
            f"{_WAY_OUT}"
        )


def _scheme(name: str, group: Mapping[str, Any], stored: object) -> Scheme | None:
    """What a group asks for; None if it quantizes nothing."""
    tables = {}
    for key in ("weights", "input_activations", "output_activations"):
        value = group.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise _wrong(f"config_groups.{name}.{key}", value, "a table or null")
        tables[key] = value
    weights, activations, outputs = tables.values()
    if weights is None and activations is None and outputs is None:
        return None
    scheme = None if weights is None or outputs is not None else _known(name, weights, activations)
    if scheme is None or stored not in _STORED[scheme.kind]:
        raise UnsupportedModelError(
            f"config_groups.{name} of the checkpoint asks for weights in {_described(weights)} and "
            f"activations in {_described(activations)}, stored as {stored!r}"
            f"{'' if outputs is None else ', with quantized outputs'}: "
            f"this scheme is not implemented. {_WAY_OUT}"
        )
    return scheme


_STORED: Mapping[str, tuple[str | None, ...]] = {
    "packed": ("pack-quantized", "mixed-precision", None),
    "int8": ("int-quantized", "naive-quantized", "mixed-precision", None),
    "fp8": ("float-quantized", "naive-quantized", "mixed-precision", None),
}


def _known(name: str, weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> Scheme | None:
    """The scheme, if it is one of those implemented.

    Raises:
        CheckpointError: a value is of the wrong kind or absurd.
    """
    what = f"config_groups.{name}.weights"
    bits = weights.get("num_bits", 8)
    if not _is_integer(bits) or bits < 1:
        raise _wrong(f"{what}.num_bits", bits, "a number of bits")
    size = weights.get("group_size")
    strategy = weights.get("strategy")
    if size is not None and (not _is_integer(size) or size == 0 or size < -1):
        raise _wrong(f"{what}.group_size", size, "a positive number of inputs, -1 or null")
    if strategy is None:
        strategy = "tensor" if size is None else "group" if size > 0 else "channel"
    if strategy == "group" and (size is None or size <= 0):
        raise _wrong(f"{what}.group_size", size, "a positive number of inputs, for its strategy is 'group'")
    symmetric = weights.get("symmetric", True)
    if not isinstance(symmetric, bool):
        raise _wrong(f"{what}.symmetric", symmetric, "true or false")
    if weights.get("dynamic") or weights.get("block_structure"):
        return None
    kind = weights.get("type", "int")
    if activations is None:
        if kind != "int" or bits not in (4, 8) or strategy not in ("group", "channel"):
            return None
        return Scheme(
            group=name,
            kind="packed",
            bits=bits,
            group_size=size if strategy == "group" else None,
            symmetric=symmetric,
            indexed=weights.get("actorder") in (True, "group", "dynamic"),
        )
    if kind not in ("int", "float") or bits != 8 or not symmetric or strategy not in ("channel", "tensor"):
        return None
    scaled = (activations.get("dynamic") or False, activations.get("strategy") or "tensor")
    static = kind == "float" and scaled == (False, "tensor")
    if not _are_of_8_bits(activations, kind) or not (static or scaled == (True, "token")):
        return None
    return Scheme(
        group=name,
        kind="int8" if kind == "int" else "fp8",
        bits=8,
        per_tensor=strategy == "tensor",
        static=static,
    )


def _are_of_8_bits(activations: Mapping[str, Any], kind: str) -> bool:
    """Whether activations are in 8 bits of the weights' kind, symmetric."""
    return (
        activations.get("type", "int") == kind
        and activations.get("num_bits", 8) == 8
        and activations.get("symmetric", True) is True
    )


def _described(table: Mapping[str, Any] | None) -> str:
    if table is None:
        return "full precision"
    kind, bits = table.get("type", "int"), table.get("num_bits", 8)
    words = [
        f"{kind}{bits}",
        f"by {table['strategy']}" if table.get("strategy") else "",
        f"of {table['group_size']}" if table.get("group_size") else "",
        "" if table.get("symmetric", True) else "asymmetric",
        "dynamic" if table.get("dynamic") else "static",
    ]
    return " ".join(word for word in words if word)


def _strings(value: object, what: str) -> tuple[str, ...]:
    """A list of names and patterns, whose patterns are valid."""
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not all(isinstance(v, str) for v in value)
    ):
        raise _wrong(what, value, "a list of names")
    for entry in value:
        if entry.startswith(_PATTERN):
            try:
                re.compile(entry.removeprefix(_PATTERN))
            except re.error as error:
                raise _wrong(what, entry, f"a regular expression after 're:' ({error})") from None
    return tuple(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _wrong(what: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"quantization_config.{what} of the checkpoint is {_short(value)}, expected {expected}."
    )
