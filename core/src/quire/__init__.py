"""Quire: an LLM inference and serving engine in which everything is a plugin.

The public names are loaded on first use, so that `import quire` stays light.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire.beam_search import BeamSearchOutput, BeamSearchSequence
    from quire.config import EngineConfig
    from quire.engine.async_llm import AsyncLLM
    from quire.engine.info import EngineInfo, EngineStats
    from quire.engine.llm import LLM
    from quire.engine.process.launch import EngineProcess
    from quire.errors import QuireError
    from quire.outputs import CompletionOutput, Logprob, RequestOutput
    from quire.sampling_params import BeamSearchParams, SamplingParams
    from quire.scheduler import DraftStats, SchedulerStats
    from quire.structured_outputs import GuidedDecodingParams, StructuredOutputsParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "CompletionOutput",
    "DraftStats",
    "EngineConfig",
    "EngineInfo",
    "EngineProcess",
    "EngineStats",
    "GuidedDecodingParams",
    "Logprob",
    "QuireError",
    "RequestOutput",
    "SamplingParams",
    "SchedulerStats",
    "StructuredOutputsParams",
]

_HOME = {
    "LLM": "quire.engine.llm",
    "AsyncLLM": "quire.engine.async_llm",
    "BeamSearchOutput": "quire.beam_search",
    "BeamSearchParams": "quire.sampling_params",
    "BeamSearchSequence": "quire.beam_search",
    "CompletionOutput": "quire.outputs",
    "DraftStats": "quire.scheduler",
    "EngineConfig": "quire.config",
    "EngineInfo": "quire.engine.info",
    "EngineProcess": "quire.engine.process.launch",
    "EngineStats": "quire.engine.info",
    "GuidedDecodingParams": "quire.structured_outputs",
    "Logprob": "quire.outputs",
    "QuireError": "quire.errors",
    "RequestOutput": "quire.outputs",
    "SamplingParams": "quire.sampling_params",
    "SchedulerStats": "quire.scheduler",
    "StructuredOutputsParams": "quire.structured_outputs",
}


# What loading the public names has taken so far; the start-up report shows it.
_import_seconds = 0.0


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'quire' has no attribute {name!r}")
    global _import_seconds
    start = time.perf_counter()
    module = importlib.import_module(_HOME[name])
    _import_seconds += time.perf_counter() - start
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
