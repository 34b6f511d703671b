"""A GPTQ checkpoint's settings, for the whole of it and for one module. Knows JSON values, no tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.errors import CheckpointError

BITS = (2, 3, 4, 8)

_FORMATS = ("gptq", "gptq_v2")
_WHERE = "quantization_config"


@dataclass(frozen=True, slots=True)
class ModuleSettings:
    """How one module was quantized.

    Attributes:
        bits: of a code.
        group_size: inputs per group; -1 for all of them.
    """

    bits: int
    group_size: int


@dataclass(frozen=True, slots=True)
class Rule:
    """An entry of `dynamic`.

    Attributes:
        pattern: matched from the start of the module's name.
        settings: for modules it matches; None leaves them unquantized.
    """

    pattern: re.Pattern[str]
    settings: ModuleSettings | None


@dataclass(frozen=True, slots=True)
class GptqSettings:
    """What `quantization_config` (or the older quantize_config.json) says.

    `desc_act`, `sym` and `static_groups` are not here: `g_idx` and `qzeros` say it module by module.

    Attributes:
        default: for modules that no rule matches.
        rules: `dynamic`, in order; the first that matches counts.
        lm_head: whether the head is quantized.
        stored_zeros: how a zero z is stored: "z" (format `gptq_v2`); "z-1" (`gptq`), each field modulo
            2^bits; or "word-ones" (`gptq` by GPTQModel), where ones were subtracted from all fields of a
            32-bit word at once, so that a z of 0 borrows from the next.
    """

    default: ModuleSettings
    rules: tuple[Rule, ...]
    lm_head: bool
    stored_zeros: str

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> GptqSettings:
        """Settings as the checkpoint has them.

        Raises:
            CheckpointError: a setting is missing, of the wrong type, or names a layout that is not read.
        """
        stored_format = config.get("checkpoint_format") or config.get("format") or "gptq"
        if _flag(config, "is_marlin_format") or stored_format == "marlin":
            raise CheckpointError(
                f"{_WHERE} says that the weights are in Marlin's layout, which is made for one kernel and "
                "not read here. Use the checkpoint in the format 'gptq' that it was made from."
            )
        if stored_format not in _FORMATS:
            raise CheckpointError(
                f"{_WHERE}: checkpoint_format {stored_format!r} is not read. "
                f"Use a checkpoint in one of: {', '.join(_FORMATS)}."
            )
        default = _module(config, None, _WHERE)
        return cls(
            default=default,
            rules=_rules(config.get("dynamic"), default),
            lm_head=_flag(config, "lm_head"),
            stored_zeros=_stored_zeros(str(stored_format), config),
        )

    def module(self, name: str) -> ModuleSettings | None:
        """For the module of that name; None if it was to be left unquantized."""
        for rule in self.rules:
            if rule.pattern.match(name):
                return rule.settings
        return self.default if self.lm_head or name.rpartition(".")[2] != "lm_head" else None


def _stored_zeros(stored_format: str, config: Mapping[str, Any]) -> str:
    if stored_format == "gptq_v2":
        return "z"
    meta = config.get("meta")
    writers = meta.get("quantizer") if isinstance(meta, Mapping) else None
    return "word-ones" if "gptqmodel" in str(writers) else "z-1"


def _rules(dynamic: Any, default: ModuleSettings) -> tuple[Rule, ...]:
    if dynamic is None:
        return ()
    if not isinstance(dynamic, Mapping):
        raise CheckpointError(f"{_WHERE}: dynamic must be an object, not {type(dynamic).__name__}.")
    rules = []
    for key, overrides in dynamic.items():
        where = f"{_WHERE}: dynamic {key!r}"
        try:
            pattern = re.compile(str(key).removeprefix("-:").removeprefix("+:"))
        except (re.error, RecursionError, OverflowError) as error:
            raise CheckpointError(f"{where} is no regular expression: {error}.") from error
        if str(key).startswith("-:"):
            rules.append(Rule(pattern, None))
            continue
        if not isinstance(overrides, Mapping):
            raise CheckpointError(f"{where} must be an object, not {type(overrides).__name__}.")
        rules.append(Rule(pattern, _module(overrides, default, where)))
    return tuple(rules)


def _module(config: Mapping[str, Any], default: ModuleSettings | None, where: str) -> ModuleSettings:
    bits = _integer(config, "bits", None if default is None else default.bits, where)
    if bits not in BITS:
        raise CheckpointError(f"{where}: bits is {bits}, expected one of {', '.join(map(str, BITS))}.")
    group_size = _integer(config, "group_size", -1 if default is None else default.group_size, where)
    if group_size < 1 and group_size != -1:
        raise CheckpointError(
            f"{where}: group_size is {group_size}, expected a number of inputs, or -1 for all of them."
        )
    return ModuleSettings(bits, group_size)


def _integer(config: Mapping[str, Any], key: str, default: int | None, where: str) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{where}: {key} must be an integer, not {value!r}.")
    return value


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if not isinstance(value, bool | None):
        raise CheckpointError(f"{_WHERE}: {key} must be true or false, not {value!r}.")
    return bool(value)
