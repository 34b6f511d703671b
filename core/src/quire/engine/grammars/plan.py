"""Which grammar backends an engine uses, in which order, and how its own process comes by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quire.contracts.grammar import Grammar, GrammarNeed, Vocabulary
from quire.engine.grammars.worker import load_grammar
from quire.errors import PluginError
from quire.plugin_plan import PlanBuilder, PlannedPlugin, PluginPlan

__all__ = ["choose_grammars", "grammar_plugins", "load_grammars"]

_ROLE = "grammar/"
_OTHER_NAMES = {"guidance": "llguidance"}
"""What vLLM calls them."""


def choose_grammars(builder: PlanBuilder, need: GrammarNeed, asked: str) -> None:
    """Put the backends into a plan: the one asked for, or with "auto" all that can be used, best first.

    Raises:
        PluginError: the one asked for cannot be used.
    """
    if asked != "auto":
        builder.choose("grammar", need, requested=_OTHER_NAMES.get(asked, asked), role=f"{_ROLE}0")
        return
    number = 0
    for found in builder.registry.all_of("grammar"):
        why = "gets what those before it refuse" if number else "highest priority, tried first"
        try:
            builder.choose("grammar", need, requested=found.qualified, why=why, role=f"{_ROLE}{number}")
        except PluginError:  # a candidate that is of no use here; `quire plugins` lists it
            continue
        number += 1


def grammar_plugins(plan: PluginPlan) -> list[PlannedPlugin]:
    """The backends of a plan, in the order they are tried."""
    roles = sorted(role for role in plan.plugins if role.startswith(_ROLE))
    return [plan[role] for role in roles]


def load_grammars(
    plan: PluginPlan, need: GrammarNeed, make_vocabulary: Callable[[], Vocabulary]
) -> Mapping[str, Grammar]:
    """The backends of a plan, by name."""
    vocabulary = make_vocabulary()
    return {plugin.name: load_grammar(plugin, need, vocabulary) for plugin in grammar_plugins(plan)}
