"""The setting `quantization`, as scripts written for vLLM pass it, against the bundled model."""

from __future__ import annotations

import pytest

from quire import LLM
from quire.errors import PluginError, UnsupportedModelError


def open_tiny(**settings: object) -> LLM:
    return LLM("tiny", show_progress=False, kv_cache_memory_bytes="4MiB", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["squeezellm", "gguf", "bitsandbytes", "fp8"])
def test_a_format_that_is_not_read_says_what_to_use(name: str) -> None:
    with pytest.raises(PluginError, match=rf"'{name}' is not a format that Quire reads. Instead: \w+"):
        open_tiny(quantization=name)


def test_none_goes_by_the_checkpoint() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'hqq', which no .* plugin reads\. Instead: use"):
        open_tiny(hf_overrides={"quantization_config": {"quant_method": "hqq"}})


def test_a_contradiction_names_both() -> None:
    with pytest.raises(PluginError, match=r"'none' was asked for, and .* quant_method is 'somebody'"):
        open_tiny(quantization="none", hf_overrides={"quantization_config": {"quant_method": "somebody"}})


def test_another_spelling_is_told_in_the_start_up_report() -> None:
    llm = open_tiny(quantization="INT8")
    lines = llm.startup_report.lines()
    llm.shutdown()
    assert any(line.startswith("note") and "quantization 'INT8' is 'int8' here" in line for line in lines)
