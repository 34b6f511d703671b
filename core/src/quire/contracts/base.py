"""What every plugin kind has in common: a frozen spec, and a table of the kinds.

Knows no kind's details and imports nothing heavy. A later kind is one more file
in this folder, one hook in `quire.hookspecs` and one row in `quire.contracts.kinds`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from quire.errors import PluginError

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(>=\d+(\.\d+)*)?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the engine asks of a candidate; each kind adds its own fields.

    Attributes:
        device: device type the worker runs on, "cpu" or "cuda".
        dtype: compute dtype's name, e.g. "bfloat16".
        deterministic: the bits of a row's result may depend on nothing but that row's own request (and on
            the machine and its number of threads): not on other rows, nor on how many there are, nor
            on how the request's tokens were split into steps, nor on what of it came from a cache. A
            candidate that cannot hold this for all it computes rejects the need.
    """

    device: str
    dtype: str
    deterministic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSpec:
    """A plugin as described by its hook: frozen, and cheap to make.

    Attributes:
        name: name users write in the configuration; unique within its kind.
        api: version of the kind's contract that the plugin implements. Checked
            before anything at `target` is imported.
        target: "module:attribute" of the implementation, imported only when chosen
            (or when a candidate is asked `reject`).
        summary: one line for `quire plugins`.
        options: "module:PydanticModel" that validates the plugin's options, or None
            if it takes none.
        priority: among candidates without a reason against them, the highest wins.
        requires: distributions that it is built on and that its own does not install, as
            "name" or "name>=1.2". Without them it is listed, with what is lacking, and never imported.

    Raises:
        PluginError: a name, target or requirement is malformed.
    """

    name: str
    api: int
    target: str
    summary: str = ""
    options: str | None = None
    priority: int = 0
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise PluginError(
                f"Plugin name {self.name!r} is malformed: use lower-case letters, digits, '.', '_' and '-'."
            )
        for field, value in (("target", self.target), ("options", self.options)):
            if value is not None and not _TARGET.match(value):
                raise PluginError(
                    f"Plugin {self.name!r}: {field} {value!r} is malformed: write 'package.module:attribute'."
                )
        for requirement in self.requires:
            if not _REQUIREMENT.match(requirement):
                raise PluginError(
                    f"Plugin {self.name!r}: requirement {requirement!r} is malformed: "
                    f"write 'name' or 'name>=1.2'."
                )

    def reject(self, need: Need) -> str | None:
        """The reason this plugin cannot serve `need`, decided from the description alone.

        None leaves the decision to the target's own `reject(need)` classmethod.
        """
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec(PluginSpec):
    """A spec bound to device types.

    Attributes:
        devices: device types it runs on; empty means any.
    """

    devices: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        PluginSpec.__post_init__(self)
        # A plugin may write a plain set; the frozen spec must stay hashable.
        object.__setattr__(self, "devices", frozenset(self.devices))

    def reject(self, need: Need) -> str | None:
        """Refuses a device the spec does not list."""
        if self.devices and need.device not in self.devices:
            return f"runs on {', '.join(sorted(self.devices))}, not on {need.device}"
        return None


class Choice(enum.Enum):
    """How one plugin of a kind is chosen."""

    PRIORITY = "priority"
    """By name if the user named one, else the highest priority that does not reject the need."""
    MATCH = "match"
    """By what the checkpoint says: the spec's `matches` names must contain the wanted key."""
    ALL = "all"
    """Every installed one is in use; names must still be unique."""
    NAMED = "named"
    """Only those the configuration names: installing is not activating."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One row of the table of kinds.

    Attributes:
        name: singular name, as users write it ("attention" in "attention.torch").
        hook: hook in `quire.hookspecs` that plugins of this kind implement.
        spec: the spec class that the hook must yield.
        api: contract version this core speaks; a plugin with another one is not loaded.
        choice: how one is chosen.
        title: plural for people, for tables and messages.
    """

    name: str
    hook: str
    spec: type[PluginSpec]
    api: int
    choice: Choice
    title: str
