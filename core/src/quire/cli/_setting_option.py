"""`SettingOption`: a flag made from a setting. Knows how it is written and where help shows it; no value."""

from __future__ import annotations

from typing import Any

import click
from pydantic import BaseModel

__all__ = ["EVERYTHING", "SectionOption", "SettingOption"]

EVERYTHING = "quire.help_all"
"""Set in the context while help shows every flag."""


class SettingOption(click.Option):
    """A flag made from a setting; help lists it under its section, and it may be written with dots.

    Attributes:
        section: title of its part of the help.
        rare: plain `--help` leaves it out.
        spellings: how it is written, in kebab-case, such as `--plugins-options` and `--plugins.options`.
        key_words: words between dots that make a key of its mapping; 0 if it holds none.
    """

    def __init__(
        self,
        names: list[str],
        *,
        section: str,
        rare: bool,
        dotted: str | None = None,
        key_words: int = 0,
        **rest: Any,
    ) -> None:
        super().__init__(names, **rest)
        self.section = section
        self.rare = rare
        self.spellings = (self.opts[0],) if dotted is None else (self.opts[0], dotted)
        self.key_words = key_words

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The rare ones are in `--help-all` only."""
        return None if self.rare and not ctx.meta.get(EVERYTHING) else super().get_help_record(ctx)


class SectionOption(SettingOption):
    """A flag made from a field of a command's section of the configuration.

    Attributes:
        section_name: the section's key in the configuration file.
        section_model: what validates the section.
    """

    def __init__(
        self, names: list[str], *, section_name: str, section_model: type[BaseModel], **rest: Any
    ) -> None:
        super().__init__(names, **rest)
        self.section_name = section_name
        self.section_model = section_model
