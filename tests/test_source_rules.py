"""Rules over the sources themselves: no pickle anywhere, hooks documented, files of one noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BANNED = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def sources() -> list[Path]:
    folders = [ROOT / "core" / "src", ROOT / "plugins", ROOT / "tools", ROOT / "bench", ROOT / "examples"]
    return sorted(path for folder in folders for path in folder.rglob("*.py") if ".venv" not in path.parts)


def pickling(tree: ast.AST) -> Iterator[str]:
    """Imports of pickling modules, and `torch.load` / `torch.save`, `allow_pickle=True`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in BANNED)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BANNED:
            yield str(node.module)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in {("torch", "load"), ("torch", "save")}:
                yield f"torch.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle"


@pytest.mark.parametrize(
    "code", ["import pickle", "from dill import loads", "torch.load(f)", "np.load(f, allow_pickle=True)"]
)
def test_the_rule_sees_pickling(code: str) -> None:
    assert list(pickling(ast.parse(code)))


def test_nothing_pickles() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sources()
        if (names := list(pickling(ast.parse(path.read_text()))))
    }
    assert found == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_source_file_is_longer_than_one_noun() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
