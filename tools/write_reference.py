"""Writes the generated pages of the documentation: hooks and contracts, configuration.

The configuration has the sections of this repository's packages, whatever else is installed.

    python tools/write_reference.py [--check]

Everything comes from docstrings and field descriptions; with `--check` nothing is written, and the exit
status says whether the pages in docs/reference are what would be written.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from quire import hookspecs
from quire.config import EngineConfig, PluginsConfig
from quire.contracts import KINDS, PluginSpec
from quire.plugin_plan import import_target
from quire.plugins import discover

CONFIGURATION = """\
Settings come from, each over the one before: defaults, a YAML file (`--config`), the environment (`QUIRE_`
and the name in capitals), and the command line (kebab-case) or keywords of `LLM`. `quire config --show`
prints the effective value of each and where it came from, `quire config --check FILE` validates a file, and
`quire config --schema` prints the JSON Schema."""
SECTION = """\
Settings of `quire {name}`, from the package `{distribution}`. They stand below `{name}:` in the file; their
variables have two underscores (`QUIRE_{capitals}__` and the name in capitals), their flags no prefix. A
list's flag has the singular name and may be given several times; in the environment its items are separated
by commas."""
ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"


def hooks_page() -> str:
    """Every hook, in the order of the table of kinds, with the spec it yields."""
    parts = [
        "# Hooks and contracts",
        "<!-- written by tools/write_reference.py -->",
        inspect.cleandoc(hookspecs.__doc__ or ""),
        "Every spec has these fields:",
        _fields(PluginSpec),
    ]
    for kind in KINDS.values():
        hook = getattr(hookspecs, kind.hook)
        spec = kind.spec
        parts += [
            f"## {kind.hook}",
            inspect.cleandoc(hook.__doc__ or ""),
            f"Kind `{kind.name}`, api {kind.api}; rule *{kind.choice.value}*. Yields `{spec.__name__}`:",
            _summary(spec),
            _fields(spec),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def configuration_page() -> str:
    """Every setting with its type, default and description."""
    return (
        "\n\n".join(
            [
                "# Configuration",
                "<!-- written by tools/write_reference.py -->",
                CONFIGURATION,
                _settings(EngineConfig),
                "## plugins",
                _settings(PluginsConfig),
                *_sections(),
            ]
        )
        + "\n"
    )


def _sections() -> list[str]:
    """Headings and tables of the sections that commands of this repository's packages add."""
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["sources"]
    parts = []
    for found in discover(allow=list(workspace)).of_kind("command"):
        if found.spec.options is not None:
            name = found.spec.name
            text = SECTION.format(name=name, distribution=found.distribution, capitals=name.upper())
            model = import_target("command", name, found.spec.options)
            parts += [f"## {name}", text, _settings(model)]
    return parts


def _summary(spec: type) -> str:
    text = inspect.cleandoc(spec.__doc__ or "")
    return text.split("\n\nAttributes:")[0]


def _fields(spec: type) -> str:
    """The fields that a spec class documents itself."""
    assert dataclasses.is_dataclass(spec)
    text = inspect.cleandoc(spec.__doc__ or "")
    _, _, attributes = text.partition("Attributes:\n")
    attributes = attributes.split("\nRaises:")[0]
    rows: list[str] = []
    for line in attributes.splitlines():
        if line.startswith("    ") and not line.startswith("     ") and ":" in line:
            name, _, words = line.strip().partition(":")
            rows.append(f"- `{name}`: {words.strip()}")
        elif line.strip() and rows:
            rows[-1] += " " + line.strip()
    return "\n".join(rows)


def _settings(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()["properties"]
    rows = ["| Setting | Type | Default | |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        rows.append(f"| `{name}` | {_type(schema[name])} | {default} | {field.description} |")
    return "\n".join(rows)


def _plain(value: object) -> object:
    return "…" if isinstance(value, PluginsConfig) else value


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}s"
    formats = {"password": "secret", "path": "path"}
    return formats.get(schema.get("format", "")) or str(schema.get("type", "mapping"))


PAGES = {"hooks.md": hooks_page, "configuration.md": configuration_page}


def main() -> int:
    """Write or check the pages; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    if check and stale:
        print(f"out of date: {', '.join(stale)}. Run python tools/write_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
