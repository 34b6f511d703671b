"""Packages installed for real, as wheels, into an environment of their own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from quire.testing.model import Reference

from .installed import ROOT, SMALLEST, Environment

pytestmark = pytest.mark.slow

EXAMPLE = "examples/quire-kernels-fused-norm"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Core, one attention backend, one model family, one sampler: the least that generates."""
    made = Environment(tmp_path_factory.mktemp("scratch") / "venv")
    made.install(*SMALLEST)
    return made


def test_the_smallest_set_generates(environment: Environment, checkpoint: Callable[[str], Reference]) -> None:
    plugins = json.loads(environment.quire("plugins", "--json"))
    assert "tiny" not in json.dumps(plugins)
    model = str(checkpoint("qwen3").directory)
    result = json.loads(
        environment.quire("generate", model, "abc", "--max-tokens", "5", "--ignore-eos", "--json")
    )
    assert len(result["outputs"][0]["token_ids"]) == 5


def test_a_third_party_plugin_is_found_used_and_conforms(
    environment: Environment, checkpoint: Callable[[str], Reference]
) -> None:
    environment.install(EXAMPLE)
    listed = environment.quire("plugins", "--json")
    assert "quire-kernels-fused-norm" in listed
    script = (
        "from quire import LLM, SamplingParams\n"
        f"llm = LLM({str(checkpoint('llama').directory)!r}, kernels='fused-norm', show_progress=False)\n"
        "out = llm.generate('abc', SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)\n"
        "print(llm.plan.plugins['kernels'].distribution, len(out[0].outputs[0].token_ids))\n"
    )
    assert environment.python(script).split() == ["quire-kernels-fused-norm", "4"]
    assert " passed" in environment.pytest(ROOT / EXAMPLE / "tests")


def test_the_example_is_as_short_as_the_guide_says() -> None:
    code = [
        line
        for path in (ROOT / EXAMPLE / "src").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip() and not line.strip().startswith(('"""', "#"))
    ]
    assert len(code) <= 15
