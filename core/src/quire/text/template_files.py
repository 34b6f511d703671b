"""The chat templates among a model's files, read without loading the tokenizer.

For whoever has to know what a template looks like before anything is loaded. What is rendered is what
the tokenizer has (`quire.text.chat`), which reads the same files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_chat_templates"]


def read_chat_templates(directory: Path) -> dict[str, str]:
    """Chat templates by name; the usual one is called "default". Empty if there is none.

    Files of their own win over tokenizer_config.json, as in transformers. Broken files have no
    templates here: the tokenizer's loading names them.
    """
    own = directory / "chat_template.jinja"
    found = _named(_json(directory / "tokenizer_config.json").get("chat_template"))
    found |= _named(_json(directory / "chat_template.json").get("chat_template"))
    if own.is_file():
        found = {"default": _text(own)}
    more = directory / "additional_chat_templates"
    for path in sorted(more.glob("*.jinja")) if more.is_dir() else ():
        found[path.stem] = _text(path)
    return {name: text for name, text in found.items() if text}


def _named(value: Any) -> dict[str, str]:
    """A template, or a list of `{"name", "template"}`."""
    if isinstance(value, str):
        return {"default": value}
    entries = value if isinstance(value, list) else ()
    return {
        str(entry["name"]): entry["template"]
        for entry in entries
        if isinstance(entry, dict) and "name" in entry and isinstance(entry.get("template"), str)
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
