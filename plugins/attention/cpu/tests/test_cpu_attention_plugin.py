"""The hook describes the backend and imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import quire_attn_cpu


def test_the_hook_describes_the_backend() -> None:
    (spec,) = quire_attn_cpu.quire_attention_backends()
    assert (spec.name, spec.api, spec.priority, spec.devices) == ("cpu", 1, 50, frozenset({"cpu"}))
    assert spec.target == "quire_attn_cpu.backend:CpuAttention"
    assert spec.options == "quire_attn_cpu.options:CpuAttentionOptions"


def test_importing_the_plugin_imports_no_torch() -> None:
    code = "import sys, quire_attn_cpu; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
