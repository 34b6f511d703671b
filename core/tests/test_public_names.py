"""The public names, and that they cost nothing until they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import quire
import quire.contracts

HEAVY = ("torch", "transformers", "pydantic", "huggingface_hub", "numpy", "safetensors", "tokenizers")


def modules_after(code: str) -> set[str]:
    """Modules present in a fresh interpreter after running `code`."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_all_is_sorted_and_complete() -> None:
    assert quire.__all__ == sorted(quire.__all__, key=lambda name: (not name.isupper(), name))
    for name in quire.__all__:
        assert getattr(quire, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(quire, "Llm")


def test_contracts_all_is_complete() -> None:
    public = {name for name in vars(quire.contracts) if name[0].isupper() or name == "hookimpl"}
    assert public == set(quire.contracts.__all__)


def test_import_quire_imports_nothing_heavy() -> None:
    assert modules_after("import quire").isdisjoint(HEAVY)


def test_contracts_and_discovery_import_no_torch() -> None:
    modules = modules_after("import quire.contracts; from quire.plugins import discover; discover()")
    assert modules.isdisjoint(HEAVY)


def test_scheduler_and_kv_import_no_torch() -> None:
    modules = modules_after("import quire.kv, quire.scheduler")
    assert modules.isdisjoint({"torch", "transformers"})
