"""Where settings come from: layers of values with their origins, and the layer of the environment.

The layer of a YAML file is read in `_config_file`. Knows no field's meaning and imports neither
pydantic nor torch: what a value must be is said in `quire.config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quire._config_vllm import is_fulfilled
from quire.errors import ConfigError

__all__ = [
    "ENV_PREFIX",
    "KeyPath",
    "Layer",
    "Shape",
    "allowed_in_environment",
    "decode",
    "origin_of",
    "origins_of",
    "read_environment",
    "take_section",
    "variable_names",
]

ENV_PREFIX = "QUIRE_"
KeyPath = tuple[str | int, ...]
Shape = Literal["flag", "list", "mapping", "scalar"]

# What Kubernetes puts into every container of a namespace with a service called "quire" or
# "quire-something"; these are nobody's settings.
_SERVICE_LINKS = re.compile(
    r"QUIRE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)\Z"
)
_SERVICE_ADDRESSES = ("tcp://", "udp://", "sctp://")

# Read by the commands that ask a running server; no setting of an engine.
_CLIENTS = frozenset({"QUIRE_API_KEY"})


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings of one source.

    Attributes:
        values: nested mapping, as the source gave it.
        origins: for key paths into `values`, where each was written ("quire.yaml:3", "QUIRE_SEED").
    """

    values: dict[str, Any]
    origins: dict[KeyPath, str]

    @classmethod
    def of_keywords(cls, values: Mapping[str, Any], origin: str) -> Layer:
        """Settings given in a call, but for those of vLLM that ask for what is the case."""
        settings = {name: value for name, value in values.items() if not is_fulfilled(name, value)}
        return cls(settings, {(name,): origin for name in settings})

    def has(self, path: KeyPath) -> bool:
        """Whether this source sets the whole of `path`."""
        value: Any = self.values
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def origin(self, path: KeyPath) -> str | None:
        """Where the nearest written ancestor of `path` (or itself) stands."""
        return next((self.origins[p] for p in _prefixes(path) if p in self.origins), None)


def _prefixes(path: KeyPath) -> Iterator[KeyPath]:
    """`path`, its parent, its parent's parent ..., longest first and without the empty one."""
    return (path[:length] for length in range(len(path), 0, -1))


def origin_of(layers: list[Layer], path: KeyPath) -> str | None:
    """Origin of the value at `path`; of its nearest set ancestor if nothing sets it; None for a default.

    Args:
        layers: highest precedence first.
    """
    for prefix in _prefixes(path):
        for layer in layers:
            if layer.has(prefix):
                return layer.origin(prefix)
    return None


def decode(shape: Shape, text: str) -> Any:
    """The value that `text` from a variable or a flag stands for, before validation.

    A list is comma-separated, a mapping is JSON, anything else stays text.

    Raises:
        ValueError: a mapping is not a JSON object; the message says so.
    """
    if shape == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if shape == "mapping":
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"must be a JSON object, got {text!r} ({error})") from None
        if not isinstance(value, dict):
            raise ValueError(f"must be a JSON object, got {text!r}")
        return value
    return text


def variable_names(shapes: Mapping[KeyPath, Shape]) -> dict[str, KeyPath]:
    """Environment variable of each key path.

    Words are joined by "_" for the engine's own settings (`QUIRE_PLUGINS_ALLOW`) and by "__" below
    a plugin's section (`QUIRE_SERVE__PORT`).
    """
    own = {"plugins"}
    return {
        ENV_PREFIX + ("_" if path[0] in own else "__").join(str(key) for key in path).upper(): path
        for path in shapes
    }


def read_environment(environ: Mapping[str, str], shapes: Mapping[KeyPath, Shape]) -> Layer:
    """The settings among `environ`'s variables. An empty variable counts as unset.

    Variables with "__" belong to sections; those of sections the caller does not know are another
    program's and are left alone.

    Args:
        shapes: key paths that may be set, and how each is written.

    Raises:
        ConfigError: a `QUIRE_*` variable is no setting, or is not written as its setting must be.
    """
    names = variable_names(shapes)
    mistaken = {name.replace("__", "_"): name for name in names if "__" in name}
    layer = Layer({}, {})
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or not text:
            continue
        path = names.get(name)
        if path is None:
            if name in mistaken and not text.startswith(_SERVICE_ADDRESSES):
                raise ConfigError(f"{name}: is no setting; did you mean {mistaken[name]}?")
            if "__" in name or name in _CLIENTS or _SERVICE_LINKS.match(name):
                continue
            # Handed on under the name a file would use, so that validation names the nearest known one.
            path = (name.removeprefix(ENV_PREFIX).lower(),)
        target = layer.values
        for key in path[:-1]:
            target = target.setdefault(str(key), {})
        try:
            target[str(path[-1])] = decode(shapes.get(path, "scalar"), text)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        layer.origins[path] = name
    return layer


def allowed_in_environment(environ: Mapping[str, str]) -> list[str] | None:
    """`plugins.allow` as the environment gives it, None if it does not.

    For callers that must know before the whole configuration is read.
    """
    text = environ.get("QUIRE_PLUGINS_ALLOW")
    return decode("list", text) if text else None


def origins_of(layers: list[Layer], paths: Iterable[KeyPath]) -> dict[str, str]:
    """Where the value of each key path was written, "default" for those that nothing sets."""
    return {
        ".".join(str(key) for key in path): next(
            (layer.origin(path) or "default" for layer in layers if layer.has(path)), "default"
        )
        for path in paths
    }


def take_section(layers: list[Layer], name: str) -> tuple[list[Layer], dict[str, Any]]:
    """Moves a section out of the layers: layers with nothing else, and the merged content."""
    own: list[Layer] = []
    merged: Any = {}
    for layer in reversed(layers):
        if name not in layer.values:
            continue
        value = layer.values.pop(name)
        own.insert(0, Layer({name: value}, layer.origins))
        if not isinstance(merged, dict):
            continue  # a weaker source wrote something else than a section: validation says so
        if isinstance(value, Mapping):
            merged = {**merged, **value}
        elif value is not None:  # "serve:" with nothing below it is an empty section
            merged = value
    return own, merged
