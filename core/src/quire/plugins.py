"""The only file that knows pluggy: discover -> check -> index -> choose -> explain.

Discovery runs once, at start-up, and imports only the light hook modules that entry points of the
group `quire` name. Targets are imported when they are chosen, or asked whether they would serve.
What is chosen is frozen into a `quire.plugin_plan.PluginPlan`.

One failure policy: what the user asked for by name and cannot be used is fatal, with its cause;
a candidate that is broken, incompatible or unsuitable is skipped, with the reason recorded.

Never imports torch.
"""

from __future__ import annotations

import difflib
import importlib.metadata as metadata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy

from quire import hookspecs
from quire.contracts.base import Kind, Need, PluginSpec
from quire.contracts.kinds import KINDS
from quire.errors import PluginError
from quire.plugin_plan import Explanation, NothingServesError, import_target
from quire.requirements import lacking

__all__ = ["OK", "Found", "PluginRegistry", "Skipped", "discover"]

GROUP = "quire"
OK = "ok"

_DETERMINISTIC = {("kernels", "cpu"): "quire-kernels-cpu", ("attention", "cpu"): "quire-attn-cpu"}
"""Distributions that serve a deterministic need where the usual plugins do not, by kind and device."""


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin that a hook described.

    Attributes:
        kind: name of its kind.
        spec: its description.
        distribution, version: where it comes from.
        status: "ok", or why it cannot be used.
        lacks: it cannot be used because what it is built on is not installed: nothing is wrong with that
            unless it is asked for.
    """

    kind: str
    spec: PluginSpec
    distribution: str
    version: str
    status: str = OK
    lacks: bool = False

    @property
    def qualified(self) -> str:
        """`distribution:name`, which is unambiguous."""
        return f"{self.distribution}:{self.spec.name}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A distribution none of whose plugins are known, because its hook module was not usable.

    Attributes:
        distribution, version: which one.
        reason: why.
        by_allowlist: the user wanted it so.
    """

    distribution: str
    version: str
    reason: str
    by_allowlist: bool = False


class PluginRegistry:
    """What is installed, indexed by kind, and the choices made from it."""

    def __init__(self, found: Iterable[Found], skipped: Iterable[Skipped] = ()) -> None:
        self.found = tuple(found)
        self.skipped = tuple(skipped)

    def of_kind(self, kind: str) -> list[Found]:
        """Every plugin of a kind, usable or not."""
        return [found for found in self.found if found.kind == kind]

    def load(self, found: Found) -> Any:
        """Import a plugin's target.

        Raises:
            PluginError: it is not usable, or its import fails; the cause is attached.
        """
        if found.status != OK:
            raise PluginError(f"{found.kind} {found.qualified} cannot be used: {found.status}.")
        return import_target(found.kind, found.spec.name, found.spec.target)

    def all_of(self, kind: str) -> list[Found]:
        """Every usable plugin of a kind whose rule is "all", highest priority first.

        Raises:
            PluginError: two have the same name.
        """
        usable = [found for found in self.of_kind(kind) if found.status == OK]
        self._refuse_duplicates(kind, usable)
        return sorted(usable, key=lambda found: (-found.spec.priority, found.spec.name))

    def named(self, kind: str, name: str) -> Found:
        """The usable plugin that the user named, as `name` or `distribution:name`.

        Raises:
            PluginError: there is none, there are two, or it cannot be used.
        """
        known = self.of_kind(kind)
        distribution, _, short = name.rpartition(":")
        same = [
            found
            for found in known
            if found.spec.name == short and (not distribution or found.distribution == distribution)
        ]
        if not same:
            raise PluginError(self._unknown(kind, name, known))
        if len(same) > 1:
            self._refuse_duplicates(kind, same)
        if same[0].status != OK:
            raise PluginError(f"{kind} {name!r} was asked for and cannot be used: {same[0].status}.")
        return same[0]

    def choose(
        self,
        kind: str,
        need: Need,
        *,
        requested: str | None = None,
        why: str | None = None,
        key: str | None = None,
        role: str | None = None,
    ) -> tuple[Found, Explanation]:
        """Choose one plugin of a kind for a need.

        Args:
            kind: name of the kind; its row in `KINDS` gives the rule.
            need: what is asked; candidates answer `reject(need)`.
            requested: what the user named, if anything.
            why: the reason for that, where it was not the user, and others are used as well.
            key: for a kind that is matched, the name that the checkpoint wants
                (an architecture, a `quant_method`).
            role: what it is chosen for, if the kind alone does not say.

        Raises:
            PluginError: nothing serves the need; the message lists every candidate with its reason.
        """
        role = role or kind
        if requested is not None:
            found = self.named(kind, requested)
            reason = self._reason_against(found, need)
            if reason is not None:
                raise PluginError(f"{kind} {requested!r} was asked for and cannot be used: {reason}.")
            if why is not None:
                return found, Explanation(role, found.qualified, why, ())
            others = [
                (other.qualified, "not asked for") for other in self.of_kind(kind) if other is not found
            ]
            return found, Explanation(role, found.qualified, "asked for by name", tuple(others))
        return self._choose_best(kind, need, key, role)

    def _choose_best(self, kind: str, need: Need, key: str | None, role: str) -> tuple[Found, Explanation]:
        rejected: list[tuple[str, str]] = []
        candidates = []
        for found in self.of_kind(kind):
            matches: Collection[str] = getattr(found.spec, "matches", ())
            if found.status != OK:
                rejected.append((found.qualified, found.status))
            elif key is not None and not matches:
                rejected.append((found.qualified, "is only used when it is asked for by name"))
            elif key is not None and key not in matches:
                rejected.append((found.qualified, f"is for {', '.join(sorted(matches))}"))
            else:
                candidates.append(found)
        self._refuse_duplicates(kind, candidates)
        candidates.sort(key=lambda found: (-found.spec.priority, found.spec.name))
        chosen: Found | None = None
        for found in candidates:
            if chosen is not None:
                rejected.append((found.qualified, _behind(found, chosen)))
                continue
            reason = self._reason_against(found, need)
            if reason is None:
                chosen = found
            else:
                rejected.append((found.qualified, reason))
        if chosen is None:
            raise NothingServesError(self._nothing_serves(kind, need, key, rejected), rejected)
        why = f"matches {key!r}" if key is not None else f"highest priority, {chosen.spec.priority}"
        return chosen, Explanation(role, chosen.qualified, why, tuple(rejected))

    def _reason_against(self, found: Found, need: Need) -> str | None:
        """The spec is asked first: it is free. Then the target, whose import may fail."""
        reason = found.spec.reject(need)
        if reason is not None:
            return reason
        try:
            ask = getattr(self.load(found), "reject", None)
            return None if ask is None else ask(need)
        except Exception as error:
            return f"is broken: {type(error).__name__}: {error}"

    def _refuse_duplicates(self, kind: str, found: list[Found]) -> None:
        # A command's name is unique within its group only.
        counts = Counter(getattr(one.spec, "path", one.spec.name) for one in found)
        for name, count in counts.items():
            if count > 1:
                owners = [f for f in found if getattr(f.spec, "path", f.spec.name) == name]
                raise PluginError(
                    f"Two {KINDS[kind].title} are named {name!r}: from "
                    f"{' and '.join(one.distribution for one in owners)}. Uninstall one, restrict "
                    f"plugins.allow, or write {owners[0].qualified!r} or {owners[1].qualified!r}."
                )

    def _unknown(self, kind: str, name: str, known: list[Found]) -> str:
        names = sorted({found.spec.name for found in known})
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"Unknown {kind} {name!r}.{hint} Choose one of: {', '.join(names) or 'none is installed'}."

    def _nothing_serves(self, kind: str, need: Need, key: str | None, rejected: list[tuple[str, str]]) -> str:
        wanted = f"{key!r}" if key is not None else f"device {need.device!r} and dtype {need.dtype!r}"
        wanted += ", deterministic" if need.deterministic else ""
        asked = "; ".join(f"{name} {reason}" for name, reason in rejected) or "none is installed"
        skipped = "".join(f"; {one.distribution}: {one.reason}" for one in self.skipped)
        hint = f" {_way_out(kind, need)}" if need.deterministic else ""
        return f"No plugin of the kind {kind!r} serves {wanted}. Asked: {asked}{skipped}.{hint}"


def _behind(found: Found, chosen: Found) -> str:
    """Why a candidate was not asked: candidates go by priority, then by name."""
    if found.spec.priority < chosen.spec.priority:
        return f"has a lower priority ({found.spec.priority})"
    return f"has the same priority, and comes behind {chosen.spec.name!r} by name"


def _way_out(kind: str, need: Need) -> str:
    """What would make a deterministic engine possible."""
    package = _DETERMINISTIC.get((kind, need.device))
    return "Leave out `deterministic`" + (f", or install {package}." if package is not None else ".")


def discover(allow: Collection[str] | None = None) -> PluginRegistry:
    """Find the installed plugins. Imports only the hook modules of allowed distributions.

    Args:
        allow: distributions that may be imported; None for all. The core's own is always allowed.
    """
    allowed = None if allow is None else {_normalise(name) for name in allow} | {GROUP}
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    found: list[Found] = []
    skipped: list[Skipped] = []
    for entry in _entry_points():
        name, version = _owner(entry)
        if allowed is not None and _normalise(name) not in allowed:
            skipped.append(Skipped(name, version, "is not in plugins.allow", by_allowlist=True))
            continue
        try:
            module: ModuleType = entry.load()
            manager.register(module, name=f"{name}/{entry.name}")
            manager.check_pending()
            found.extend(_described(manager, module, name, version))
        except Exception as error:
            if manager.has_plugin(f"{name}/{entry.name}"):
                manager.unregister(name=f"{name}/{entry.name}")
            skipped.append(Skipped(name, version, f"is broken: {type(error).__name__}: {error}"))
    return PluginRegistry(found, skipped)


def _described(
    manager: pluggy.PluginManager, module: ModuleType, distribution: str, version: str
) -> Iterator[Found]:
    """What one hook module describes, each spec checked against its kind."""
    for kind in KINDS.values():
        hook: pluggy.HookCaller = getattr(manager.hook, kind.hook)
        for implementation in hook.get_hookimpls():
            if implementation.plugin is module:
                specs: Iterable[PluginSpec] = implementation.function()  # type: ignore[assignment]
                for spec in specs:
                    status, lacks = _check(kind, spec), False
                    if status == OK and (reason := lacking(spec.requires)) is not None:
                        status, lacks = reason, True
                    yield Found(kind.name, spec, distribution, version, status, lacks)


def _check(kind: Kind, spec: PluginSpec) -> str:
    if not isinstance(spec, kind.spec):
        raise PluginError(f"hook {kind.hook} yielded {spec!r}; it must yield {kind.spec.__name__}")
    if spec.api != kind.api:
        return f"implements api {spec.api} of the {kind.name} contract; this Quire has api {kind.api}"
    return OK


def _entry_points() -> list[metadata.EntryPoint]:
    """Entry points of the group, the core's first, then by distribution, so that order is stable."""
    entries = metadata.entry_points(group=GROUP)
    return sorted(entries, key=lambda entry: (_owner(entry)[0] != GROUP, _owner(entry)[0], entry.name))


def _owner(entry: metadata.EntryPoint) -> tuple[str, str]:
    if entry.dist is None:
        return entry.name, "?"
    return entry.dist.name, entry.dist.version


def _normalise(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
