"""The frozen result of choosing plugins: which one serves each role, with its options, and why.

A plan is plain data, so that worker processes load exactly what was chosen; they discover nothing.
Knows nothing of hooks. Never imports torch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata as metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quire.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from quire.contracts.base import Need
    from quire.plugins import Found, PluginRegistry

__all__ = ["Explanation", "NothingServesError", "PlanBuilder", "PlannedPlugin", "PluginPlan", "import_target"]


class NothingServesError(PluginError):
    """No plugin of a kind serves a need.

    Attributes:
        rejected: (`distribution:name`, reason) of each that was asked.
    """

    def __init__(self, message: str, rejected: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.rejected = tuple(rejected)


@dataclass(frozen=True, slots=True)
class PlannedPlugin:
    """One choice, complete enough to be loaded in another process.

    Attributes:
        kind, name, distribution, version, target: identity.
        options: validated options as plain data, None if the plugin takes none.
        options_model: "module:attribute" of the options model.
    """

    kind: str
    name: str
    distribution: str
    version: str
    target: str
    options: Mapping[str, Any] | None = None
    options_model: str | None = None

    def load(self) -> Any:
        """Import the target.

        Raises:
            PluginError: another version is installed here than was planned, or the import fails.
        """
        try:
            here = metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            here = "none"
        if here != self.version:
            raise PluginError(
                f"The plan names {self.distribution} {self.version} for {self.kind} {self.name!r}, but "
                f"version {here} is installed here. Install the same version everywhere."
            )
        return import_target(self.kind, self.name, self.target)

    def load_options(self) -> BaseModel | None:
        """The options as an instance of the plugin's model."""
        if self.options_model is None:
            return None
        model: type[BaseModel] = import_target(self.kind, self.name, self.options_model)
        return model.model_validate(dict(self.options or {}))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a plugin was chosen.

    Attributes:
        role: what it was chosen for: the kind, or "attention/0" for a KV group.
        chosen: `distribution:name`, or "none" where the engine does without.
        reason: one sentence.
        rejected: (`distribution:name`, reason) of every other one of the kind.
    """

    role: str
    chosen: str
    reason: str
    rejected: tuple[tuple[str, str], ...]


PROCESSOR_ROLE = "logits_processor/"
"""Begins the role of each active logits processor, before its name."""


@dataclass(frozen=True, slots=True)
class PluginPlan:
    """All choices of one engine, by role, with their explanations. Frozen; plain data."""

    plugins: Mapping[str, PlannedPlugin] = field(default_factory=dict)
    explanations: tuple[Explanation, ...] = ()

    def __getitem__(self, role: str) -> PlannedPlugin:
        return self.plugins[role]


class PlanBuilder:
    """Collects choices, validates the options meant for them, and freezes both into a plan."""

    def __init__(self, registry: PluginRegistry, options: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse options for plugins that are not installed.

        Args:
            registry: what is installed.
            options: "kind.name" -> options, from the configuration.

        Raises:
            ConfigError: options name no installed plugin.
        """
        self.registry = registry
        self._options = options
        self._plugins: dict[str, PlannedPlugin] = {}
        self._explanations: list[Explanation] = []
        installed = {f"{found.kind}.{found.spec.name}" for found in registry.found}
        for name in options:
            if name not in installed:
                close = difflib.get_close_matches(name, installed, n=1)
                raise ConfigError(
                    f"plugins.options names {name!r}, which is not installed."
                    + (f" Did you mean {close[0]!r}?" if close else " `quire plugins` lists what is.")
                )

    def choose(
        self,
        kind: str,
        need: Need,
        *,
        requested: str | None = None,
        why: str | None = None,
        key: str | None = None,
        role: str | None = None,
        given: tuple[str, Mapping[str, Any]] = ("", {}),
    ) -> Any:
        """Choose (see `PluginRegistry.choose`), record the choice, and return the imported target.

        Args:
            given: a setting's name and the options of the chosen plugin in it, besides those in
                `plugins.options`.
        """
        found, explanation = self.registry.choose(
            kind, need, requested=requested, why=why, key=key, role=role
        )
        self._plugins[explanation.role] = PlannedPlugin(
            kind=kind,
            name=found.spec.name,
            distribution=found.distribution,
            version=found.version,
            target=found.spec.target,
            options=self._validated(found, *given),
            options_model=found.spec.options,
        )
        self._explanations.append(explanation)
        return self.registry.load(found)

    def choose_if_any(self, kind: str, need: Need, *, requested: str | None, without: str) -> None:
        """Choose, as `choose` does, what an engine can do without: if nothing serves, that is recorded.

        Args:
            kind, need, requested: as for `choose`; what was asked for by name must serve,
                and "none" asks for none.
            without: why there is none, in words.
        """
        if requested == "none":
            others = tuple((found.qualified, "not asked for") for found in self.registry.of_kind(kind))
            self._explanations.append(Explanation(kind, "none", "asked for by name", others))
            return
        try:
            self.choose(kind, need, requested=requested)
        except NothingServesError as error:
            self._explanations.append(Explanation(kind, "none", without, error.rejected))

    def options(self, role: str) -> BaseModel | None:
        """The validated options of what was chosen for a role."""
        return self._plugins[role].load_options()

    def build(self) -> PluginPlan:
        """The frozen plan of everything chosen so far."""
        return PluginPlan(dict(self._plugins), tuple(self._explanations))

    def _validated(self, found: Found, setting: str, more: Mapping[str, Any]) -> dict[str, Any] | None:
        name = f"{found.kind}.{found.spec.name}"
        given = self._options.get(name, {})
        for key in more:
            if key in given:
                raise ConfigError(
                    f"{setting} and plugins.options.{name} both give {key!r}. Write it in one place."
                )
        given = {**given, **more}

        def written(key: str) -> str:
            return f"{setting}.{key}" if key in more else f"plugins.options.{name}.{key}"

        if found.spec.options is None:
            if given:
                raise ConfigError(f"{written(min(given))}: {name} takes no options. Leave it out.")
            return None
        from pydantic import BaseModel, ValidationError

        model = import_target(found.kind, found.spec.name, found.spec.options)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PluginError(f"{name}: {found.spec.options!r} is not a pydantic model.")
        # An options model that does not say what to do with unknown options refuses them.
        unknown = set(given) - set(model.model_fields)
        if unknown and model.model_config.get("extra", "forbid") == "forbid":
            raise ConfigError(
                f"{written(min(unknown)).rpartition('.')[0]}: unknown option {min(unknown)!r}. "
                f"Choose from: {', '.join(sorted(model.model_fields))}."
            )
        try:
            return model.model_validate(dict(given)).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            keys = [str(part) for part in first["loc"]]
            where = ".".join([written(keys[0]), *keys[1:]]) if keys else setting or f"plugins.options.{name}"
            said = first["msg"].removeprefix("Value error, ")
            got = f" (got {first['input']!r})" if keys else ""  # what is wrong as a whole says itself what
            raise ConfigError(f"{where}: {said}{got}.") from error


def import_target(kind: str, name: str, target: str) -> Any:
    """Import "module:attribute" of a plugin.

    Raises:
        PluginError: the import fails; the cause is attached.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise PluginError(
            f"{kind} {name!r}: importing {target!r} failed: {type(error).__name__}: {error}"
        ) from error
