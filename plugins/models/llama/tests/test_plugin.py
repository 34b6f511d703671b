"""The hook and what it describes."""

from __future__ import annotations

import subprocess
import sys

import quire_models_llama
from quire_models_llama.features import ARCHITECTURES


def test_the_hook_names_every_architecture_of_the_family() -> None:
    (spec,) = quire_models_llama.quire_models()
    assert spec.matches == {f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Qwen2", "Qwen3")}
    assert spec.matches == ARCHITECTURES
    module, _, attribute = spec.target.partition(":")
    __import__(module)
    assert hasattr(sys.modules[module], attribute)


def test_describing_imports_nothing_heavy() -> None:
    code = "import sys, quire_models_llama; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
