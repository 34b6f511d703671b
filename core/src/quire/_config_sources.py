"""Where settings come from: a YAML file, the environment, keywords; each value with its origin.

Knows files, variables and line numbers. Knows no field's meaning and imports neither pydantic nor
torch: what a value must be is said in `quire.config`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from quire.errors import ConfigError

__all__ = [
    "ENV_PREFIX",
    "KeyPath",
    "Layer",
    "Shape",
    "allowed_in_environment",
    "allowed_in_file",
    "decode",
    "origin_of",
    "read_environment",
    "read_file",
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
        """Settings given in a call."""
        return cls(dict(values), {(name,): origin for name in values})

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
    layer = Layer({}, {})
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or not text:
            continue
        path = names.get(name)
        if path is None:
            if "__" in name or _SERVICE_LINKS.match(name):
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


def read_file(file: Path) -> Layer:
    """The settings in a YAML file, with the line of each key.

    Raises:
        ConfigError: the file cannot be read, is not YAML, holds no mapping, or repeats a key; the
            message begins with "file:line:" wherever there is a line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file}: cannot read the configuration file: {reason}") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return Layer({}, {}) if node is None else _Reader(file, loader).layer(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = file if mark is None else f"{file}:{mark.line + 1}"
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{where}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: not valid YAML: nested too deeply") from None


class _Reader:
    """Turns YAML nodes into values, remembering lines and refusing repeated keys."""

    def __init__(self, file: Path, loader: yaml.SafeLoader) -> None:
        self._file = file
        self._loader = loader
        self._origins: dict[KeyPath, str] = {}
        self._open: set[int] = set()

    def layer(self, root: yaml.Node) -> Layer:
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(
                f"{self._where(root)}: the file must hold a mapping of settings, such as 'max_num_seqs: 32', "
                f"not a {'list' if isinstance(root, yaml.SequenceNode) else 'single value'}"
            )
        values = self._value(root, ())
        return Layer(values, self._origins)

    def _where(self, node: yaml.Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._construct(node)
        if id(node) in self._open:
            raise ConfigError(f"{self._where(node)}: an alias may not contain itself")
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise ConfigError(f"{self._where(node)}: not valid YAML: the tag {node.tag!r} is not allowed")
        self._open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        else:
            value = [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        self._open.discard(id(node))
        return value

    def _construct(self, node: yaml.Node) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            # What PyYAML lets through for scalars that are not what they look like: 2026-13-40, !!bool x.
            raise ConfigError(f"{self._where(node)}: not valid YAML: {error}") from None

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self._origins[path] = self._where(node)
        return self._value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        first: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self._key(key_node, path)
            line = key_node.start_mark.line + 1
            if key in first:
                raise ConfigError(
                    f"{self._where(key_node)}: {key}: given twice; the first is on line {first[key]}"
                )
            first[key] = line
        # Merge keys ("<<") put their pairs in front, so that the mapping's own win below.
        self._loader.flatten_mapping(node)
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            self._origins[(*path, key)] = self._where(key_node)
            values[key] = self._value(value_node, (*path, key))
        return values

    def _key(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag == "tag:yaml.org,2002:merge":
            return "<<"
        key = self._construct(node)
        if not isinstance(key, Hashable) or (not path and not isinstance(key, str)):
            raise ConfigError(f"{self._where(node)}: {key!r}: a setting's name must be text")
        return key


def allowed_in_environment(environ: Mapping[str, str]) -> list[str] | None:
    """`plugins.allow` as the environment gives it, None if it does not.

    For callers that must know before the whole configuration is read.
    """
    text = environ.get("QUIRE_PLUGINS_ALLOW")
    return decode("list", text) if text else None


def allowed_in_file(file: Path) -> list[str] | None:
    """`plugins.allow` as a configuration file gives it, None if it does not.

    Raises:
        ConfigError: as `read_file`.
    """
    plugins = read_file(file).values.get("plugins")
    allow = plugins.get("allow") if isinstance(plugins, dict) else None
    return [str(name) for name in allow] if isinstance(allow, list) else None
