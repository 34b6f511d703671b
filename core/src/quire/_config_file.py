"""The layer of settings that a YAML file is, with the line of every key.

Knows YAML and line numbers. Knows no field's meaning and imports neither pydantic nor torch.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from quire._config_sources import KeyPath, Layer
from quire.errors import ConfigError

__all__ = ["allowed_in_file", "read_file"]


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
            return self._loader.construct_object(node, deep=True)
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


def allowed_in_file(file: Path) -> list[str] | None:
    """`plugins.allow` as a configuration file gives it, None if it does not.

    Raises:
        ConfigError: as `read_file`.
    """
    plugins = read_file(file).values.get("plugins")
    allow = plugins.get("allow") if isinstance(plugins, dict) else None
    return [str(name) for name in allow] if isinstance(allow, list) else None
