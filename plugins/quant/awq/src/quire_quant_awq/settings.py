"""What a checkpoint's settings say about AWQ, in either of the tools' words for it. Knows no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.errors import CheckpointError, UnsupportedModelError
from quire_quant_awq.decode import BITS
from quire_quant_awq.layouts import LAYOUTS

_ON_DISK_GEMM = ("exllama", "exllamav2", "ipex")
"""Versions that say how to compute, for files in the gemm layout."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a checkpoint.

    Attributes:
        group_size: inputs that share a scale; -1 for all.
        zero_point: whether weights are asymmetric.
        version: the layout that a module is expected in whose tensors do not tell.
        left_out: parts of the names of modules that are not quantized.
    """

    group_size: int
    zero_point: bool
    version: str
    left_out: tuple[str, ...]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """From `quantization_config`, in transformers' words (`bits`) or llm-awq's (`w_bit`).

        Raises:
            CheckpointError: a value is of the wrong kind, or absurd.
            UnsupportedModelError: there is no such variant here.
        """
        name, bits = _first(config, ("bits", "w_bit"), BITS)
        if not _is_integer(bits):
            raise _wrong(name, bits, "a number of bits")
        if bits != BITS:
            raise UnsupportedModelError(
                f"The checkpoint's AWQ weights have {bits} bits ({name}), and only {BITS} are implemented. "
                "Use a checkpoint of 4 bits, or one that GPTQ quantized to 2, 3 or 8."
            )
        name, size = _first(config, ("group_size", "q_group_size"), 128)
        if not _is_integer(size) or size == 0 or size < -1:
            raise _wrong(name, size, "a positive number of inputs, or -1 for all")
        name, zero_point = _first(config, ("zero_point",), True)
        if not isinstance(zero_point, bool):
            raise _wrong(name, zero_point, "true or false")
        name, version = _first(config, ("version", "format"), "gemm")
        if not isinstance(version, str):
            raise _wrong(name, version, "the name of a layout")
        version = version.lower()
        if version in _ON_DISK_GEMM:
            version = "gemm"
        if version not in LAYOUTS:
            raise UnsupportedModelError(
                f"The checkpoint is in AWQ's layout {version!r} ({name}), which is not implemented. "
                f"Use one in: {', '.join(LAYOUTS)}."
            )
        name, left_out = _first(config, ("modules_to_not_convert",), [])
        if not isinstance(left_out, list | tuple) or not all(isinstance(entry, str) for entry in left_out):
            raise _wrong(name, left_out, "a list of parts of names, or null")
        return cls(group_size=size, zero_point=zero_point, version=version, left_out=tuple(left_out))


def _first(config: Mapping[str, Any], names: tuple[str, ...], default: object) -> tuple[str, Any]:
    """The first of these that is set, and its name."""
    found = [name for name in names if config.get(name) is not None]
    if len({repr(config[name]).lower() for name in found}) > 1:
        both = " and ".join(f"{name}: {config[name]!r}" for name in found)
        raise CheckpointError(
            f"quantization_config of the checkpoint has {both}, "
            "two names for one setting. Remove the wrong one."
        )
    return (found[0], config[found[0]]) if found else (names[0], default)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"quantization_config.{name} of the checkpoint is {value!r}, expected {expected}.")
