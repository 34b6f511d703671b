"""Discovery, choice and planning, against distributions that the tests write themselves."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quire import hookspecs
from quire.contracts import KINDS, Choice, KernelsNeed, Kind, PluginSpec
from quire.errors import ConfigError, PluginError
from quire.plugin_plan import PlanBuilder, PlannedPlugin
from quire.plugins import discover

Distribute = Callable[..., str]
NEED = KernelsNeed(device="cpu", dtype="float32")


@pytest.fixture
def distribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribute]:
    """Writes an installed distribution: a module, and metadata with an entry point of the group `quire`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules: list[str] = []

    def write(name: str, hook_module: str, version: str = "1.0", **others: str) -> str:
        module = name.replace("-", "_")
        modules.append(module)
        for key, text in {module: hook_module, **{f"{module}_{k}": v for k, v in others.items()}}.items():
            modules.append(key)
            (tmp_path / f"{key}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[quire]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return module

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def kernels_plugin(*lines: str) -> str:
    """A hook module that yields kernels specs."""
    body = "\n".join(f"    yield KernelsSpec({line})" for line in lines)
    return f"from quire.contracts import KernelsSpec, hookimpl\n@hookimpl\ndef quire_kernels():\n{body}\n"


TARGET = """
class Good:
    pass

class Picky:
    @classmethod
    def reject(cls, need):
        return f"does not like {need.dtype}"
"""


def test_every_kind_has_a_documented_hook() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("quire_")}
    assert {kind.hook for kind in KINDS.values()} == hooks
    for name in hooks:
        assert (getattr(hookspecs, name).__doc__ or "").strip(), name


def test_built_ins_come_through_entry_points_like_any_plugin() -> None:
    found = {f"{one.kind}.{one.spec.name}": one.distribution for one in discover().found}
    assert found["kernels.reference"] == "quire"
    assert found["attention.torch"] == "quire-attn-torch"
    assert found["sampler.standard"] == "quire-sampler-standard"
    assert found["model.llama"] == "quire-models-llama"
    assert found["quantization.none"] == "quire"


def test_a_new_plugin_is_found_with_its_distribution(distribute: Distribute) -> None:
    distribute("acme-fast", kernels_plugin('name="fast", api=1, target="acme_fast_impl:Good"'), impl=TARGET)
    found = next(one for one in discover().of_kind("kernels") if one.spec.name == "fast")
    assert (found.distribution, found.version, found.status) == ("acme-fast", "1.0", "ok")


def test_target_is_not_imported_by_discovery(distribute: Distribute) -> None:
    distribute("acme-lazy", kernels_plugin('name="lazy", api=1, target="acme_lazy_impl:Good"'), impl=TARGET)
    discover()
    assert "acme_lazy_impl" not in sys.modules


def test_wrong_api_is_listed_with_its_reason_and_never_imported(distribute: Distribute) -> None:
    distribute(
        "acme-old", kernels_plugin('name="old", api=7, target="acme_old_impl:Good", priority=99'), impl=TARGET
    )
    registry = discover()
    found = next(one for one in registry.of_kind("kernels") if one.spec.name == "old")
    assert "api 7" in found.status
    assert "api 1" in found.status
    chosen, why = registry.choose("kernels", NEED)
    assert chosen.spec.name != "old"
    assert ("acme-old:old", found.status) in why.rejected
    with pytest.raises(PluginError, match="asked for and cannot be used: implements api 7"):
        registry.choose("kernels", NEED, requested="old")
    assert "acme_old_impl" not in sys.modules


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        (("acme-engine",), "needs acme-engine, which is not installed: pip install 'acme-engine'"),
        (("pluggy", "acme-engine>=2.0"), "needs acme-engine, which is not installed"),
        (("pluggy>=999",), "needs pluggy 999 or newer, not "),
    ],
)
def test_what_a_plugin_is_built_on_is_named_where_it_lacks(
    distribute: Distribute, requires: tuple[str, ...], reason: str
) -> None:
    line = f'name="on", api=1, target="acme_on_impl:Good", priority=99, requires={requires!r}'
    distribute("acme-on", kernels_plugin(line), impl=TARGET)
    registry = discover()
    found = next(one for one in registry.of_kind("kernels") if one.spec.name == "on")
    assert found.status.startswith(reason)
    assert found.lacks
    chosen, why = registry.choose("kernels", NEED)
    assert chosen.spec.name != "on"
    assert ("acme-on:on", found.status) in why.rejected
    with pytest.raises(PluginError, match="asked for and cannot be used: needs "):
        registry.choose("kernels", NEED, requested="on")
    assert "acme_on_impl" not in sys.modules


def test_what_a_plugin_is_built_on_may_be_newer(distribute: Distribute) -> None:
    distribute("acme-engine", "", version="2.10rc1")
    requires = ("acme-engine>=2.9", "pluggy")
    line = f'name="on", api=1, target="acme_on_impl:Good", priority=99, requires={requires!r}'
    distribute("acme-on", kernels_plugin(line), impl=TARGET)
    chosen, _ = discover().choose("kernels", NEED)
    assert (chosen.spec.name, chosen.lacks) == ("on", False)


@pytest.mark.parametrize("requirement", ["", "two words", "name>=", "name==1.0", "name>=1.x"])
def test_a_malformed_requirement_is_refused(requirement: str) -> None:
    with pytest.raises(PluginError, match=r"requirement .* is malformed: write 'name' or 'name>=1\.2'"):
        PluginSpec(name="on", api=1, target="on:On", requires=(requirement,))


def test_a_broken_hook_module_is_skipped_with_its_reason(distribute: Distribute) -> None:
    distribute("acme-broken", "raise RuntimeError('no licence')")
    registry = discover()
    assert [one.distribution for one in registry.skipped] == ["acme-broken"]
    assert "no licence" in registry.skipped[0].reason
    assert registry.of_kind("kernels")


def test_an_unknown_hook_is_skipped_and_leaves_the_others_alone(distribute: Distribute) -> None:
    distribute(
        "acme-future",
        "from quire.contracts import hookimpl\n@hookimpl\ndef quire_teleporters():\n    return []\n",
    )
    registry = discover()
    assert "quire_teleporters" in registry.skipped[0].reason
    assert registry.of_kind("kernels")


def test_a_hook_that_yields_something_else_is_skipped(distribute: Distribute) -> None:
    distribute(
        "acme-odd", "from quire.contracts import hookimpl\n@hookimpl\ndef quire_kernels():\n    yield 3\n"
    )
    assert "must yield KernelsSpec" in discover().skipped[0].reason


def test_highest_priority_that_serves_wins_and_the_rest_is_explained(distribute: Distribute) -> None:
    distribute(
        "acme-many",
        kernels_plugin(
            'name="a", api=1, target="acme_many_impl:Good", priority=70',
            'name="b", api=1, target="acme_many_impl:Good", priority=80',
            'name="c", api=1, target="acme_many_impl:Good", priority=80',
            'name="picky", api=1, target="acme_many_impl:Picky", priority=90',
            'name="gpu", api=1, target="acme_many_impl:Good", priority=95, devices={"cuda"}',
            'name="gone", api=1, target="acme_many_nowhere:Good", priority=99',
        ),
        impl=TARGET,
    )
    chosen, why = discover().choose("kernels", NEED)
    assert chosen.qualified == "acme-many:b"
    reasons = dict(why.rejected)
    assert reasons["acme-many:picky"] == "does not like float32"
    assert reasons["acme-many:gpu"] == "runs on cuda, not on cpu"
    assert "is broken" in reasons["acme-many:gone"]
    assert reasons["acme-many:a"] == "has a lower priority (70)"
    assert reasons["acme-many:c"] == "has the same priority, and comes behind 'b' by name"


def test_asked_for_and_unusable_is_fatal_with_the_cause(distribute: Distribute) -> None:
    distribute(
        "acme-picky", kernels_plugin('name="picky", api=1, target="acme_picky_impl:Picky"'), impl=TARGET
    )
    with pytest.raises(PluginError, match="'picky' was asked for and cannot be used: does not like float32"):
        discover().choose("kernels", NEED, requested="picky")


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(PluginError, match=r"Did you mean 'reference'\? Choose one of: .*torch-cpu"):
        discover().choose("kernels", NEED, requested="referense")


def test_duplicate_names_are_an_error_naming_both_unless_qualified(distribute: Distribute) -> None:
    for owner in ("acme-one", "acme-two"):
        module = owner.replace("-", "_")
        distribute(owner, kernels_plugin(f'name="twin", api=1, target="{module}_impl:Good"'), impl=TARGET)
    registry = discover()
    with pytest.raises(PluginError, match="acme-one and acme-two"):
        registry.choose("kernels", NEED, requested="twin")
    with pytest.raises(PluginError, match="acme-one and acme-two"):
        registry.choose("kernels", NEED)
    chosen, _ = registry.choose("kernels", NEED, requested="acme-two:twin")
    assert chosen.distribution == "acme-two"


def test_a_distribution_that_is_not_allowed_is_never_imported(distribute: Distribute) -> None:
    module = distribute("acme-rogue", "raise RuntimeError('imported')")
    registry = discover(allow=["quire-attn-torch"])
    assert module not in sys.modules
    reasons = {one.distribution: one.reason for one in registry.skipped}
    assert reasons["acme-rogue"] == "is not in plugins.allow"
    assert "quire-sampler-standard" in reasons
    assert registry.of_kind("kernels"), "the core's own are always allowed"
    assert registry.of_kind("attention")
    assert not registry.of_kind("sampler")


def test_nothing_serves_lists_every_candidate() -> None:
    with pytest.raises(PluginError, match=r"No plugin of the kind 'model' serves 'Mamba'.*llama"):
        discover().choose("model", NEED, key="Mamba")


OPTIONS = """
from pydantic import BaseModel, Field

class Options(BaseModel):
    num_splits: int = Field(default=4, ge=1)

class Good:
    pass
"""


def options_plugin(distribute: Distribute) -> None:
    line = (
        'name="tuned", api=1, target="acme_tuned_impl:Good", options="acme_tuned_impl:Options", priority=99'
    )
    distribute("acme-tuned", kernels_plugin(line), impl=OPTIONS)


def test_options_arrive_validated_in_the_plan(distribute: Distribute) -> None:
    options_plugin(distribute)
    builder = PlanBuilder(discover(), {"kernels.tuned": {"num_splits": "8"}})
    builder.choose("kernels", NEED)
    planned = builder.build()["kernels"]
    assert planned.options == {"num_splits": 8}
    options = planned.load_options()
    assert options is not None
    assert options.model_dump() == {"num_splits": 8}
    assert planned.load().__name__ == "Good"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels.tuned": {"num_splits": 0}}, "kernels.tuned.num_splits"),
        ({"kernels.tuned": {"splits": 1}}, "unknown option 'splits'.*num_splits"),
        ({"kernels.tunde": {}}, "Did you mean 'kernels.tuned'"),
    ],
)
def test_wrong_options_are_refused_by_name(
    distribute: Distribute, options: dict[str, dict[str, object]], message: str
) -> None:
    options_plugin(distribute)
    with pytest.raises(ConfigError, match=message):
        PlanBuilder(discover(), options).choose("kernels", NEED)


def test_options_for_a_plugin_that_takes_none_are_refused() -> None:
    builder = PlanBuilder(discover(), {"kernels.reference": {"speed": 11}})
    with pytest.raises(ConfigError, match=r"kernels\.reference takes no options"):
        builder.choose("kernels", NEED, requested="reference")


def test_a_worker_refuses_a_plan_made_with_another_version(distribute: Distribute) -> None:
    distribute("acme-here", kernels_plugin('name="here", api=1, target="acme_here_impl:Good"'), impl=TARGET)
    planned = PlannedPlugin("kernels", "here", "acme-here", "2.0", "acme_here_impl:Good")
    with pytest.raises(PluginError, match=r"names acme-here 2\.0.*version 1\.0 is installed"):
        planned.load()


@pytest.mark.parametrize("line", ['name="No Caps", api=1, target="a:b"', 'name="x", api=1, target="nowhere"'])
def test_malformed_specs_are_reported_with_their_distribution(distribute: Distribute, line: str) -> None:
    distribute("acme-bad", kernels_plugin(line))
    skipped = discover().skipped
    assert [one.distribution for one in skipped] == ["acme-bad"]
    assert "malformed" in skipped[0].reason


def test_a_later_kind_is_a_row_and_a_hook(distribute: Distribute, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in `plugins.py` has to know it."""

    @hookspecs.hookspec
    def quire_stat_loggers() -> None:
        """Who is told figures."""

    monkeypatch.setattr(hookspecs, "quire_stat_loggers", quire_stat_loggers, raising=False)
    row = Kind(
        name="stat_logger",
        hook="quire_stat_loggers",
        spec=PluginSpec,
        api=1,
        choice=Choice.PRIORITY,
        title="stat loggers",
    )
    monkeypatch.setitem(KINDS, "stat_logger", row)
    distribute(
        "acme-spec",
        """
        from quire.contracts import PluginSpec, hookimpl
        @hookimpl
        def quire_stat_loggers():
            yield PluginSpec(name="ngram", api=1, target="acme_spec_impl:Good")
        """,
        impl=TARGET,
    )
    chosen, _ = discover().choose("stat_logger", NEED)
    assert chosen.qualified == "acme-spec:ngram"
